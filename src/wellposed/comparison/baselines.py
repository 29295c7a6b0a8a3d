"""Published Lipschitz bounds of explicit networks, to compare with.

AutoLip (Scaman & Virmaux 2018) is the product of the norms of a chain, which ``certify(model, method="product")`` gives. Their
SeqLip looks at what activations can do between two linear maps; LipSDP (Fazlyab et al. 2019) at all of them at once, here with
diagonal multipliers, as those for pairs of units are invalid (Pauli et al. 2022).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.activations import of_module
from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.errors import CertificateError, InputError, check
from wellposed.network import materialise
from wellposed.network.embedding import embed
from wellposed.numerics.outward import next_up
from wellposed.numerics.verified import spectral_norm_upper_bound

_LARGEST = 16  # units between two maps for which all activations are tried
_ROOM = 1.0 + 1e-9  # for the rounding of singular values
_GAIN = 1.0 + 1e-12  # a flip that gains no more may gain by rounding alone


@dataclass(frozen=True)
class SeqLip:
    """The bound, or an estimate of it.

    Attributes:
        value: the product over the activations.
        certified: whether every maximum was taken over all activations; a greedy one may be too small, and certifies nothing.
    """

    value: float
    certified: bool


@torch.no_grad()
def lipsdp(model: nn.Sequential) -> float:
    """LipSDP with one multiplier per unit: the bound in the best diagonal metric of the network's embedding.

    Args:
        model: linear layers with activations of slopes in [0, 1] between them; see `wellposed.network.embedding.embed`.

    Raises:
        InputError: the network cannot be embedded.
        CertificateError: nothing could be proved.
    """
    found = embed(model)
    block = DenseMetricProblem(found.matrix.double(), found.input_weight.double(), found.metric.double())
    bound = block.bound(found.output_weight.double())
    if bound is None:
        raise CertificateError("model: no bound could be proved in float64")
    return bound.value


@torch.no_grad()
def seqlip(model: nn.Sequential, *, greedy: bool = False) -> SeqLip:
    """SeqLip: the largest ‖Σ_{i+1}^½V_{i+1}ᵀ diag(s) U_iΣ_i^½‖₂ over activations s in [0, 1], multiplied over i.

    Σ^½ is Σ at the two ends. The norm is convex in s, so that s of zeros and ones suffices.

    Args:
        model: linear layers with activations of slopes in [0, 1] between them.
        greedy: climb by single flips, for layers of any width; the result is an estimate from below.

    Raises:
        CertificateError: a layer has too many units to try all activations.
    """
    maps = linear_maps(model)
    if len(maps) == 1:
        return SeqLip(spectral_norm_upper_bound(maps[0]), True)
    factors = [torch.linalg.svd(weight, full_matrices=False) for weight in maps]
    value = 1.0
    for place in range(len(maps) - 1):
        left, right = factors[place + 1], factors[place]
        after = (left[1] if place == len(maps) - 2 else left[1].sqrt())[:, None] * left[2]
        before = right[0] * (right[1] if place == 0 else right[1].sqrt())
        value = next_up(value * (_climb(after, before) if greedy else _all(after, before)))
    return SeqLip(value * _ROOM, not greedy)


def _all(after: Tensor, before: Tensor) -> float:
    units = len(before)
    if units > _LARGEST:
        raise CertificateError(
            f"model: {units} units between two maps; at most {_LARGEST} for all activations, or greedy=True"
        )
    patterns = torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64, device="cpu")
    products = torch.einsum("ij,pj,jk->pik", after, patterns, before)
    return float(torch.linalg.matrix_norm(products, 2).max())


def _climb(after: Tensor, before: Tensor) -> float:
    pattern = torch.ones(len(before), dtype=torch.float64, device="cpu")
    best = float(torch.linalg.matrix_norm(after @ before, 2))
    while True:
        trials = (pattern - torch.eye(len(pattern), dtype=torch.float64, device="cpu")).abs()
        norms = torch.linalg.matrix_norm(torch.einsum("ij,pj,jk->pik", after, trials, before), 2)
        if not float(norms.max()) > best * _GAIN:
            return best
        best, pattern = float(norms.max()), trials[int(norms.argmax())]


@torch.no_grad()
def interval_margins(model: nn.Sequential, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
    """Interval bound propagation (Gowal et al. 2018) through an explicit network, relative in the last layer, rounded outwards.

    Args:
        model: flattening, linear layers and increasing activations, the last one linear.
        lower: least inputs, shape (batch, ...).
        upper: largest inputs, shape (batch, ...).
        labels: classes, shape (batch,).

    Returns:
        Lower bounds of min_j y_label − y_j, shape (batch,), float64.
    """
    check(lower.shape == upper.shape, "upper", tuple(upper.shape), f"must have the shape {tuple(lower.shape)} of lower")
    if not bool((lower <= upper).all()):
        raise InputError("lower: exceeds upper, or is NaN")
    low, high = (part.detach().double().cpu() for part in (lower, upper))
    *inner, head = materialise(model).blocks
    if head.linear_map is None:
        raise CertificateError(f"{head.name}: the last block must be linear")
    for block in inner:
        low, high = block.interval(low, high)
    truth = labels.cpu()
    return head.margins(low, high, truth)[0].scatter(1, truth[:, None], math.inf).amin(1)


def linear_maps(model: nn.Sequential) -> list[Tensor]:
    """Weights of a chain of linear layers with activations of slopes in [0, 1] between them, float64.

    Raises:
        CertificateError: it has other blocks.
    """
    maps = []
    blocks = [block for block in materialise(model).blocks if not block.moves]
    for place, block in enumerate(blocks):
        linear, sigma = block.linear_map, of_module(block.module)
        if place % 2 == 0 and linear is not None:
            maps.append(linear[0])
        elif place % 2 == 0 or sigma is None or not sigma.is_monotone:
            raise CertificateError(f"{block}: linear layers and activations with slopes in [0, 1] must take turns")
    if len(blocks) % 2 == 0:
        raise CertificateError("model: must begin and end with a linear layer")
    return maps
