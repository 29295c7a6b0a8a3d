"""Differentiating through a solve by the implicit function theorem.

One `torch.autograd.Function` serves every equation and every order of derivative. At z* = F(z*, θ) a cotangent g gives
``y = g + (∂F/∂z)ᵀ y``: again a fixed-point equation, with the guarantee of the first, which the backward pass hands to that
function. Its own derivatives are therefore known too, in reverse and in forward mode, and under ``torch.func``.

Where only first derivatives are asked for, the recursion is cut short: affine layers solve the adjoint directly with the
transposed factorisation of the forward pass, other maps reuse one retained graph.
"""

from wellposed.implicit.affine import AffineEquation as AffineEquation
from wellposed.implicit.gradient import Exact as Exact
from wellposed.implicit.gradient import Gradient as Gradient
from wellposed.implicit.gradient import JacobianFree as JacobianFree
from wellposed.implicit.gradient import Phantom as Phantom
from wellposed.implicit.gradient import Settings as Settings
from wellposed.implicit.gradient import Unrolled as Unrolled
from wellposed.implicit.map import MapEquation as MapEquation
