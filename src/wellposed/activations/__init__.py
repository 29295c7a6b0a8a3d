"""Activation functions with what the theorems need to know of them.

A scalar activation whose slopes lie in [0, 1] is the proximal operator of a convex function f (its subdifferential is
``σ⁻¹ − I``). Operator splitting with a step α needs the resolvent of *α times* that subdifferential, which is σ itself
only when α = 1 or when f is an indicator (ReLU, clamping): applying σ at another step converges to a wrong point.
"""

from wellposed.activations.base import Activation as Activation
from wellposed.activations.composed import Bordered as Bordered
from wellposed.activations.composed import DiagonalLinear as DiagonalLinear
from wellposed.activations.composed import PartlyLinear as PartlyLinear
from wellposed.activations.scalar import Clamp as Clamp
from wellposed.activations.scalar import Identity as Identity
from wellposed.activations.scalar import LeakyReLU as LeakyReLU
from wellposed.activations.scalar import ReLU as ReLU
from wellposed.activations.scalar import Smooth as Smooth
from wellposed.activations.scalar import activation as activation
from wellposed.activations.scalar import monotone_name as monotone_name
from wellposed.activations.scalar import monotone_names as monotone_names
