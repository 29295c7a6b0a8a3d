"""Cases to inherit: a family, operator, solver, block or bound of one's own gives a few hooks and gets every check.

They are classes of pytest tests; checks that take minutes are marked ``slow``. The extra ``testing`` brings pytest.
"""
# ruff: noqa: E402 - pytest must know the modules whose assertions it rewrites before they are imported

from pathlib import Path

from wellposed.errors import require

_modules = [f"{__name__}.{path.stem}" for path in Path(__file__).parent.glob("[a-z]*.py")]
require("pytest", "testing").register_assert_rewrite(*_modules)

from wellposed.testing.block_case import BlockCase as BlockCase
from wellposed.testing.bound_case import BoundCase as BoundCase
from wellposed.testing.conv_layer_case import ConvLayerCase as ConvLayerCase
from wellposed.testing.layer_case import LayerCase as LayerCase
from wellposed.testing.layer_hooks import trained as trained
from wellposed.testing.map_solver_case import MapSolverCase as MapSolverCase
from wellposed.testing.metric_refusals import check_refusals as check_refusals
from wellposed.testing.operator_case import OperatorCase as OperatorCase
from wellposed.testing.oracles import SharedProblem as SharedProblem
from wellposed.testing.oracles import monotone_numpy as monotone_numpy
from wellposed.testing.oracles import picard_numpy as picard_numpy
from wellposed.testing.oracles import shared_problems as shared_problems
from wellposed.testing.slopes import steepest as steepest
from wellposed.testing.solver_case import SolverCase as SolverCase
from wellposed.testing.tensors import arange as arange
from wellposed.testing.tensors import array as array
from wellposed.testing.tensors import eye as eye
from wellposed.testing.tensors import full as full
from wellposed.testing.tensors import generator as generator
from wellposed.testing.tensors import linspace as linspace
from wellposed.testing.tensors import logspace as logspace
from wellposed.testing.tensors import ones as ones
from wellposed.testing.tensors import rand as rand
from wellposed.testing.tensors import randint as randint
from wellposed.testing.tensors import randn as randn
from wellposed.testing.tensors import tensor as tensor
from wellposed.testing.tensors import use_environment as use_environment
from wellposed.testing.tensors import zeros as zeros
