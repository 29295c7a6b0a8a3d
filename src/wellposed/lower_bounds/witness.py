"""Lower bounds of Lipschitz constants, with the pair of inputs that attains them.

The ratio is evaluated in float64 with every solver error subtracted, so the pair is a proof: no smaller constant holds.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.bounds.affine_network import affine_network
from wellposed.errors import CertificateError, InputError, NotConvergedWarning, checked_options
from wellposed.lower_bounds.patterns import steep_points, steepest
from wellposed.lower_bounds.slope import sure_slope
from wellposed.network import Network, bounded_logits, materialise
from wellposed.numerics.norm import Norm, norm_named
from wellposed.numerics.shown import at_least


@dataclass(frozen=True, eq=False, repr=False)
class Witness:
    """Two inputs whose outputs are ``lipschitz`` times as far apart as they are.

    Attributes:
        lipschitz: proved lower bound of the Lipschitz constant.
        first: an input, without the batch dimension, float64.
        second: another one.
    """

    lipschitz: float
    first: Tensor
    second: Tensor

    def __repr__(self) -> str:
        return f"Witness(at least {at_least(self.lipschitz, 6)}; inputs of shape {tuple(self.first.shape)})"


@checked_options
def witness(
    model: nn.Module | Network, x: Tensor, *, norm: float | str = 2, rounds: int = 20, seed: int = 0
) -> Witness:
    """Search for the steepest pair of inputs, starting from data: by Jacobians, and by activation patterns where they apply.

    Args:
        model: a network, or a module to be materialised.
        x: inputs to start from, shape (batch, ...).
        norm: of inputs and outputs: 2, ``"inf"`` or 1.
        rounds: rounds of random search around the steepest point found.
        seed: of that search.

    Example:
        >>> model = nn.Linear(6, 3)
        >>> wp.witness(model, torch.rand(4, 6)).lipschitz <= wp.certify(model).lipschitz
        True
    """
    with torch.inference_mode(False):
        return _witness(materialise(model).exact, x, norm_named(norm), rounds, seed)


def _witness(exact: Network, x: Tensor, norm: Norm, rounds: int, seed: int) -> Witness:
    """The steepest pair that is found, outside of inference mode, which knows no gradients."""
    generator = torch.Generator().manual_seed(seed)
    if not isinstance(x, Tensor) or not x.ndim or not len(x):
        raise InputError(f"x: is {type(x).__name__} without inputs; needs a torch tensor of shape (batch, ...)")
    x = x.detach().double()
    exact.check_input(x)
    x = x.cpu().clone()
    slopes, directions = _steepest(exact, x, norm)
    best = int(slopes.argmax())
    point, slope, direction = x[best], float(slopes[best]), directions[best]
    spread = float(x.std(correction=0)) or 1.0
    for round_ in range(rounds):
        scale = spread * 2.0 ** (1 - round_ % 6)
        shape = (16, *point.shape)
        trials = point + scale * torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        slopes, directions = _steepest(exact, trials, norm)
        best = int(slopes.argmax())
        if float(slopes[best]) > slope:
            point, slope, direction = trials[best], float(slopes[best]), directions[best]
    found = [_proved(exact, point, direction, norm)]
    with contextlib.suppress(CertificateError):  # another kind of model
        found += [_proved(exact, *pair, norm) for pair in steep_points(affine_network(exact), x, norm)]
    return max(found, key=lambda pair: pair.lipschitz)


@torch.enable_grad()
def _steepest(model: Network, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Operator norm of each Jacobian and the input direction that attains it."""
    x = x.detach().requires_grad_()
    logits = model(x)
    rows = [torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)[0].flatten(1) for k in range(logits.shape[1])]
    values, directions = steepest(torch.stack(rows, 1).detach(), norm)
    return values, directions.reshape(x.shape)


def _proved(model: Network, point: Tensor, direction: Tensor, norm: Norm) -> Witness:
    best = Witness(0.0, point, point)
    size = float(point.abs().amax())
    for length in (1e-1, 1e-2, 1e-3, 1e-4):
        other = point + length * (size if size > 1e3 else 1.0) * direction  # such that adding it changes something
        found = slope_between(model, point, other, norm=norm)
        if found > best.lipschitz:
            best = Witness(found, point, other)
    return best


def slope_between(exact: Network, first: Tensor, second: Tensor, *, norm: Norm = "2") -> float:
    """How far apart the outputs of two inputs surely are, as a multiple of the inputs' distance.

    Args:
        exact: a float64 network, see `Network.exact`.
        first: an input, without the batch dimension, float64.
        second: another one.
        norm: of both.
    """
    pair = torch.stack([first, second])
    with warnings.catch_warnings():  # a solve that stops early has a large error, and proves little
        warnings.simplefilter("ignore", NotConvergedWarning)
        result = bounded_logits(exact, pair)
    order, outputs = float(norm), result.logits.shape[1]
    moved = torch.linalg.vector_norm(result.logits[1] - result.logits[0], order)
    # The errors are Euclidean; no norm here is more than √k times that.
    error = result.error.sum() * (outputs**0.5 if norm == "1" else 1.0)
    distance = torch.linalg.vector_norm(pair[1] - pair[0], order)
    return float(sure_slope(moved, error, distance, outputs=outputs, inputs=first.numel()))
