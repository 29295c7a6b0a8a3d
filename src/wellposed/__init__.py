"""Equilibrium networks with guarantees.

Names are resolved on first use, so that ``import wellposed`` alone loads neither torch nor any other package.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellposed.activations import Activation as Activation
    from wellposed.activations import activation as activation
    from wellposed.any_map import fixed_point as fixed_point
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
    from wellposed.errors import DivergedError as DivergedError
    from wellposed.errors import GuaranteeError as GuaranteeError
    from wellposed.errors import InputError as InputError
    from wellposed.errors import NotConvergedError as NotConvergedError
    from wellposed.errors import NotConvergedWarning as NotConvergedWarning
    from wellposed.errors import OptionError as OptionError
    from wellposed.errors import WellposedError as WellposedError
    from wellposed.experiments.own_training import Trained as Trained
    from wellposed.experiments.own_training import train as train
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
    from wellposed.models.classifier import normalised as normalised
    from wellposed.network import Block as Block
    from wellposed.network import Elementwise as Elementwise
    from wellposed.network import Network as Network
    from wellposed.network import Own as Own
    from wellposed.network import materialise as materialise
    from wellposed.network import register as register
    from wellposed.network.embedding import Embedding as Embedding
    from wellposed.network.embedding import embed as embed
    from wellposed.network.wrapping import Wrapped as Wrapped
    from wellposed.network.wrapping import wrap as wrap
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
    from wellposed.training.own import TrainingData as TrainingData
    from wellposed.training.own import TrainingModule as TrainingModule
    from wellposed.verification import Verdict as Verdict
    from wellposed.verification import Verifier as Verifier

    __version__: str

# Where each public name is defined.
_HOMES: dict[str, tuple[str, ...]] = {
    "activations": ("Activation", "activation"),
    "bounds": ("Bound", "BoundMethod", "register_bound", "unregister_bound"),
    "certificates": ("Certificate", "certify", "pac_bayes", "perturbation_bound", "well_posedness", "witness"),
    "deployment": ("certify_file", "deployable", "export", "load", "save"),
    "errors": (
        "CertificateError",
        "DivergedError",
        "GuaranteeError",
        "InputError",
        "NotConvergedError",
        "NotConvergedWarning",
        "OptionError",
        "WellposedError",
    ),
    "any_map": ("fixed_point",),
    "guarantee": ("Componentwise", "Contraction", "Guarantee", "PositiveConcave", "StronglyMonotone"),
    "implicit": ("Exact", "JacobianFree", "Phantom", "Unrolled"),
    "layers": (
        "DEQ",
        "LBEN",
        "NEMON",
        "SLL",
        "ConvLBEN",
        "ConvMonDEQ",
        "ConvNEMON",
        "ConvOrthogonalDEQ",
        "ConvPcDEQ",
        "Equilibrium",
        "GroupSort",
        "ImplicitGraph",
        "MonDEQ",
        "MultiScaleMonDEQ",
        "Normalize",
        "OrthogonalConv2d",
        "OrthogonalDEQ",
        "OrthogonalLinear",
        "PcDEQ",
        "Residual",
        "Sandwich",
        "UnitPool2d",
    ),
    "layers.explicit": ("ExplicitBlock",),
    "layers.implicit_layer": ("ImplicitLayer",),
    "network": ("Block", "Elementwise", "Network", "Own", "materialise", "register"),
    "network.wrapping": ("Wrapped", "wrap"),
    "network.embedding": ("Embedding", "embed"),
    "operators.graphs": ("Graphs",),
    "solvers": (
        "Adaptive",
        "Anderson",
        "Averaged",
        "Broyden",
        "DouglasRachford",
        "ForwardBackward",
        "Newton",
        "NewtonKrylov",
        "PeacemanRachford",
        "Picard",
        "Solver",
    ),
    "solvers.problem": ("AffineProblem",),
    "solvers.solution": ("Solution", "Status"),
    "verification": ("Verdict", "Verifier"),
    "experiments.own_training": ("Trained", "train"),
    "training.own": ("TrainingData", "TrainingModule"),
    "models.classifier": ("normalised",),
}
_ROOMS = {"losses": "training.losses", "families": "models.families"}  # whole modules that have a shorter name here
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    """A public name or a subpackage, imported on first use."""
    if name == "__version__":
        return version("wellposed")
    if name in _HOME_OF:
        found = getattr(importlib.import_module(f"wellposed.{_HOME_OF[name]}"), name)
        globals()[name] = found
        return found
    if name in _ROOMS:
        return importlib.import_module(f"wellposed.{_ROOMS[name]}")
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"wellposed.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"wellposed.{name}":
                raise
    raise AttributeError(f"module 'wellposed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__, *_ROOMS})
