"""Explicit networks: the state dicts of `torch.nn.Sequential` with linear maps and ReLU in turn."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.interop.files import Tensors
from wellposed.interop.published import Published

_NAME = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<place>\d+)(?P<bias>\.bias)?")


def chain(t: Tensors) -> Published:
    """``C relu(… relu(W₁x + b₁) …) + c``: maps at every second place, 0, 2, 4 and so on or, behind a flattening, 1, 3, 5."""
    found = {name: _NAME.fullmatch(name) for name in t}
    strange = [name for name, match in found.items() if match is None]
    if strange or not found:
        raise CheckpointError(f"has no numbered linear maps alone, but {sorted(strange)[:8]}")
    matches = [match for match in found.values() if match is not None]
    if len(prefixes := {match["prefix"] for match in matches}) > 1:
        raise CheckpointError(f"has numbered tensors of several modules: {sorted(prefixes)}")
    places = sorted({int(match["place"]) for match in matches})
    if places[0] > 1 or any(later - place != 2 for place, later in itertools.pairwise(places)):
        raise CheckpointError(
            f"has maps at the places {places}; one ReLU between each two of them is every second place"
        )
    (prefix,) = prefixes
    linears = tuple(_linear(t, f"{prefix}{place}") for place in places)
    weights = [linear["weight"] for linear in linears]
    for place, first, second in zip(places[1:], weights, weights[1:], strict=False):
        if second.shape[1] != len(first):
            raise CheckpointError(f"{prefix}{place}: takes {second.shape[1]} features, but is given {len(first)}")
    if len(weights) < 2:
        raise CheckpointError("has one linear map only; a network has a hidden layer")
    options = {"widths": tuple(len(weight) for weight in weights[:-1])}
    return Published(family="feedforward", options=options, linears=linears)


def _linear(t: Tensors, name: str) -> dict[str, Tensor]:
    weight = t.get(name)
    if weight is None or weight.ndim != 2:
        shape = "nothing" if weight is None else f"shape {tuple(weight.shape)}"
        raise CheckpointError(f"{name}.weight: has {shape}, must be the matrix of a linear map")
    bias = t.get(f"{name}.bias", torch.zeros(len(weight), dtype=torch.float64, device="cpu"))
    return {"weight": weight, "bias": bias}


def layouts() -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout."""
    return {"relu-chain": chain}
