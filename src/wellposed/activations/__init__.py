"""Activation functions with what the theorems need to know of them.

A scalar activation whose slopes lie in [0, 1] is the proximal operator of a convex function f (its subdifferential is
``σ⁻¹ − I``). Operator splitting with a step α needs the resolvent of *α times* that subdifferential, which is σ itself
only when α = 1 or when f is an indicator (ReLU, clamping): applying σ at another step converges to a wrong point.
"""

from wellposed.activations.base import Activation as Activation
from wellposed.activations.composed import Bordered as Bordered
from wellposed.activations.composed import DiagonalLinear as DiagonalLinear
from wellposed.activations.composed import PartlyLinear as PartlyLinear
from wellposed.activations.knowledge import Concavity as Concavity
from wellposed.activations.knowledge import TorchForm as TorchForm
from wellposed.activations.piecewise import Clamp as Clamp
from wellposed.activations.piecewise import Identity as Identity
from wellposed.activations.piecewise import LeakyReLU as LeakyReLU
from wellposed.activations.piecewise import ReLU as ReLU
from wellposed.activations.registry import activation as activation
from wellposed.activations.registry import concave_names as concave_names
from wellposed.activations.registry import monotone_names as monotone_names
from wellposed.activations.registry import name_of as name_of
from wellposed.activations.registry import names as names
from wellposed.activations.registry import of_module as of_module
from wellposed.activations.registry import torch_forms as torch_forms
from wellposed.activations.registry import torch_modules as torch_modules
from wellposed.activations.smooth import Smooth as Smooth
