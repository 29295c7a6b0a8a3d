"""Every public function with one argument at a time replaced by something unusable, made from the signatures."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import wellposed as wp
from wellposed import attacks, data, losses

UNUSABLE: dict[str, Any] = {
    "nan": math.nan, "inf": math.inf, "-1": -1, "0": 0, "1.5": 1.5, "True": True, "text": "x", "None": None, "empty": (),
    "huge": 10**30, "an object": object(), "a list of text": ["x"],
    "an empty tensor": torch.zeros(0), "integers": torch.zeros(2, 2, dtype=torch.int64),
    "numbers of another shape": torch.zeros(3, 1, 2), "nan tensor": torch.full((4, 3), math.nan),
}  # fmt: skip

# Small things for parameters by their names; a function is looked up with its own name first.
VALID: dict[str, Callable[[], Any]] = {
    "in_features": lambda: 3, "state_features": lambda: 4, "out_features": lambda: 2, "features": lambda: 4,
    "in_channels": lambda: 1, "channels": lambda: 2, "MultiScaleMonDEQ.channels": lambda: (2, 2), "image": lambda: (4, 4),
    "out_channels": lambda: 2, "window": lambda: 2, "mean": lambda: (0.5,), "std": lambda: (0.5,),
    "model": lambda: _model(), "network": lambda: _model(), "layer": lambda: wp.MonDEQ(3, 4),
    "perturbed": lambda: wp.MonDEQ(3, 4),
    "x": lambda: torch.rand(4, 3), "inputs": lambda: torch.rand(4, 3),
    "worst_logits.model": lambda: nn.Sequential(wp.NEMON(3, 4), nn.Linear(4, 2)).eval(),
    "labels": lambda: torch.tensor([0, 1, 0, 1]),
    "logits": lambda: torch.rand(4, 2), "radius": lambda: 0.1, "radii": lambda: [0.1], "lipschitz": lambda: 1.0,
    "which": lambda: "relu", "f": lambda: torch.tanh, "z0": lambda: torch.zeros(2, 3), "block": lambda: _cell(),
    "input_shape": lambda: (3,), "edge_index": lambda: torch.tensor([[0, 1], [1, 0]]), "nodes": lambda: 2,
    "data": lambda: (torch.rand(20, 3), torch.arange(20) % 2), "normalised.data": lambda: _set(),
    "TrainingData.data": lambda: _set(),
    "task": lambda: "classification", "TrainingModule.task": lambda: data.Classification(2), "arrays": lambda: _arrays(),
    "factor": lambda: 0.5, "name": lambda: "noise", "load_images.name": lambda: "digits",
    "load_vectors.name": lambda: "function-estimation", "from_arrays.name": lambda: "arrays",
}  # fmt: skip


class _Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(0.1 * self.linear(z) + x)


def _cell() -> nn.Module:
    return _Cell()


def _model() -> nn.Module:
    return nn.Sequential(wp.MonDEQ(3, 4), nn.Linear(4, 2)).eval()


def _arrays() -> dict[str, Any]:
    rows = np.random.default_rng(0).normal(size=(20, 3))
    return {"x_train": rows, "y_train": np.arange(20) % 2}


def _set() -> Any:
    return data.from_arrays(_arrays())


SUBJECTS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(wp, name)
        for name in (
            "Adaptive", "Anderson", "Averaged", "Broyden", "ConvLBEN", "ConvMonDEQ", "ConvNEMON", "ConvOrthogonalDEQ",
            "ConvPcDEQ", "Contraction", "DEQ", "DouglasRachford", "Exact", "ForwardBackward", "Graphs", "GroupSort",
            "ImplicitGraph", "LBEN", "MonDEQ", "MultiScaleMonDEQ", "NEMON", "NewtonKrylov", "Normalize", "OrthogonalConv2d",
            "OrthogonalDEQ", "OrthogonalLinear", "PcDEQ", "PeacemanRachford", "Phantom", "Residual", "SLL", "Sandwich",
            "TrainingData", "TrainingModule", "UnitPool2d", "Verifier", "activation", "certify", "deployable", "embed",
            "fixed_point", "materialise", "normalised", "pac_bayes", "perturbation_bound", "well_posedness", "witness", "wrap",
            "train",
        )
    },
    **{name: getattr(losses, name) for name in ("margin_logits", "certified_margins", "product_of_norms", "worst_logits")},
    **{name: getattr(data, name) for name in ("from_arrays", "load_images", "load_vectors")},
    **{name: getattr(attacks, name) for name in ("adversarial_distances",)},
    **{family.__name__: family for family in wp.families.FAMILIES.values()},
}  # fmt: skip

SKIPPED = {"device", "dtype", "options", "done", "is_fooled", "trainer", "loss", "args", "root", "source", "kwargs"}


@dataclass(frozen=True)
class Call:
    """A call with one argument replaced."""

    subject: str
    argument: str
    value: str

    def __call__(self) -> Any:
        """The result."""
        function = SUBJECTS[self.subject]
        given = {name: _valid(self.subject, name)() for name in _needed(self.subject)}
        return function(**{**given, self.argument: UNUSABLE[self.value]})


def calls() -> Iterator[Call]:
    """Every subject with every argument and every unusable value."""
    for subject in SUBJECTS:
        for argument in _parameters(subject):
            if argument not in SKIPPED:
                yield from (Call(subject, argument, value) for value in UNUSABLE)


def _parameters(subject: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(SUBJECTS[subject]).parameters)


def _needed(subject: str) -> list[str]:
    return [
        name
        for name, parameter in _parameters(subject).items()
        if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def _valid(subject: str, name: str) -> Callable[[], Any]:
    return VALID.get(f"{subject}.{name}", VALID.get(name))


def names(call: Call, message: str) -> bool:
    """Whether a message names the argument or, where arguments do not fit each other, another one of the call."""
    others = "|".join(_parameters(call.subject))
    called = _CALLED.get((call.subject, call.argument), call.argument)
    return call.argument in message or called in message or re.match(rf"({others})\b", message) is not None


_CALLED = {
    ("activation", "which"): "activation", ("load_images", "name"): "data", ("load_vectors", "name"): "data",
}  # fmt: skip


def must_be_refused(call: Call) -> bool:
    """Whether no function can take a value for that argument."""
    return call.value in ("nan", "an object", "a list of text") and (call.subject, call.argument) not in _TAKE_ANYTHING


_TAKE_ANYTHING = {("load_images", "data_root")}  # for a set that needs no files


def refusal(call: Call) -> str | None:
    """The library's own message about a call; None where it was taken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except wp.WellposedError as error:
            return str(error)
    return None
