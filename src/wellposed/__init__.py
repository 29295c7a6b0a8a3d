"""Equilibrium networks with guarantees."""

from importlib import import_module as _import_module
from typing import Any as _Any

from wellposed.activations import Activation as Activation
from wellposed.activations import activation as activation
from wellposed.bounds import Bound as Bound
from wellposed.bounds import BoundMethod as BoundMethod
from wellposed.bounds import register_bound as register_bound
from wellposed.bounds import unregister_bound as unregister_bound
from wellposed.certificates import Certificate as Certificate
from wellposed.certificates import certify as certify
from wellposed.certificates import pac_bayes as pac_bayes
from wellposed.certificates import perturbation_bound as perturbation_bound
from wellposed.certificates import well_posedness as well_posedness
from wellposed.certificates import witness as witness
from wellposed.deployment import certify_file as certify_file
from wellposed.deployment import deployable as deployable
from wellposed.deployment import export as export
from wellposed.deployment import load as load
from wellposed.deployment import save as save
from wellposed.errors import CertificateError as CertificateError
from wellposed.errors import GuaranteeError as GuaranteeError
from wellposed.errors import InputError as InputError
from wellposed.errors import NotConvergedError as NotConvergedError
from wellposed.errors import NotConvergedWarning as NotConvergedWarning
from wellposed.errors import OptionError as OptionError
from wellposed.errors import WellposedError as WellposedError
from wellposed.fixed_point import fixed_point as fixed_point
from wellposed.guarantee import Componentwise as Componentwise
from wellposed.guarantee import Contraction as Contraction
from wellposed.guarantee import Guarantee as Guarantee
from wellposed.guarantee import PositiveConcave as PositiveConcave
from wellposed.guarantee import StronglyMonotone as StronglyMonotone
from wellposed.implicit import Exact as Exact
from wellposed.implicit import JacobianFree as JacobianFree
from wellposed.implicit import Phantom as Phantom
from wellposed.implicit import Unrolled as Unrolled
from wellposed.layers import DEQ as DEQ
from wellposed.layers import LBEN as LBEN
from wellposed.layers import NEMON as NEMON
from wellposed.layers import SLL as SLL
from wellposed.layers import ConvLBEN as ConvLBEN
from wellposed.layers import ConvMonDEQ as ConvMonDEQ
from wellposed.layers import ConvNEMON as ConvNEMON
from wellposed.layers import ConvOrthogonalDEQ as ConvOrthogonalDEQ
from wellposed.layers import ConvPcDEQ as ConvPcDEQ
from wellposed.layers import Equilibrium as Equilibrium
from wellposed.layers import GroupSort as GroupSort
from wellposed.layers import ImplicitGraph as ImplicitGraph
from wellposed.layers import MonDEQ as MonDEQ
from wellposed.layers import MultiScaleMonDEQ as MultiScaleMonDEQ
from wellposed.layers import Normalize as Normalize
from wellposed.layers import OrthogonalConv2d as OrthogonalConv2d
from wellposed.layers import OrthogonalDEQ as OrthogonalDEQ
from wellposed.layers import OrthogonalLinear as OrthogonalLinear
from wellposed.layers import PcDEQ as PcDEQ
from wellposed.layers import Residual as Residual
from wellposed.layers import Sandwich as Sandwich
from wellposed.layers import UnitPool2d as UnitPool2d
from wellposed.layers.explicit import ExplicitBlock as ExplicitBlock
from wellposed.layers.implicit_layer import ImplicitLayer as ImplicitLayer
from wellposed.network import Block as Block
from wellposed.network import Elementwise as Elementwise
from wellposed.network import Network as Network
from wellposed.network import Own as Own
from wellposed.network import materialise as materialise
from wellposed.network import register as register
from wellposed.network.embedding import Embedding as Embedding
from wellposed.network.embedding import embed as embed
from wellposed.operators.graphs import Graphs as Graphs
from wellposed.solvers import Adaptive as Adaptive
from wellposed.solvers import Anderson as Anderson
from wellposed.solvers import Averaged as Averaged
from wellposed.solvers import Broyden as Broyden
from wellposed.solvers import DouglasRachford as DouglasRachford
from wellposed.solvers import ForwardBackward as ForwardBackward
from wellposed.solvers import Newton as Newton
from wellposed.solvers import NewtonKrylov as NewtonKrylov
from wellposed.solvers import PeacemanRachford as PeacemanRachford
from wellposed.solvers import Picard as Picard
from wellposed.solvers import Solver as Solver
from wellposed.solvers.problem import AffineProblem as AffineProblem
from wellposed.solvers.solution import Solution as Solution
from wellposed.solvers.solution import Status as Status
from wellposed.verification import Verdict as Verdict
from wellposed.verification import Verifier as Verifier

_LATER = {  # imported at its first use: training needs an extra, and the core needs none of it
    "train": "wellposed.experiments.own_training", "Trained": "wellposed.experiments.own_training",
    "TrainingModule": "wellposed.training.own", "TrainingData": "wellposed.training.own",
    "normalised": "wellposed.models.classifier",
}  # fmt: skip
_ROOMS_LATER = {
    "losses": "wellposed.training.losses", "families": "wellposed.models.families", "data": "wellposed.data",
}  # fmt: skip


def __getattr__(name: str) -> _Any:
    """What belongs to training, from the rooms above the core."""
    if name in _ROOMS_LATER:
        return _import_module(_ROOMS_LATER[name])
    if name in _LATER:
        return getattr(_import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
