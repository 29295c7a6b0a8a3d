"""Every public function with one argument at a time replaced by something unusable, made from the signatures."""

from __future__ import annotations

import functools
import inspect
import math
import random
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import wellposed as wp
from wellposed import activations, attacks, certificates, data, deployment, interop, losses, models, verification
from wellposed.activations import Activation
from wellposed.guarantee import Guarantee
from wellposed.network.pointwise import Elementwise
from wellposed.operators import Dense
from wellposed.solvers import Solver

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
    "operator": lambda: Dense(0.1 * torch.eye(3)), "m": lambda: 0.5, "slopes": lambda: (0.0, 1.0), "floor": lambda: 0.1,
    "thompson": lambda: 0.5, "activation": lambda: activations.activation("relu"),
    "PositiveConcave.operator": lambda: Dense(0.1 * torch.ones(3, 3)),
    "PositiveConcave.activation": lambda: activations.activation("tanh"),
    "injection": lambda: nn.Linear(3, 4), "constraint": lambda: wp.MonDEQ(3, 4).constraint,
    "certificate": lambda: _certificate(), "model_path": lambda: _saved() / "model.onnx",
    "certificate_path": lambda: _saved() / "certificate.json", "path": lambda: Path("a.onnx"), "folder": lambda: _saved(),
    "save.folder": lambda: Path("folder"),
    "load_file.path": lambda: _table(), "load_graphs.name": lambda: "MUTAG",
    "auto_attack.images": lambda: torch.rand(2, 1, 8, 8),
    "auto_attack.model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
    "auto_attack.labels": lambda: torch.tensor([0, 1]),
    "PositiveVerifier.model": lambda: nn.Sequential(wp.PcDEQ(3, 4), nn.Linear(4, 2)).eval(),
    "classifier.body": lambda: (nn.Linear(3, 2),),
    "read_published.path": lambda: _weights(), "read_dense.path": lambda: _weights(), "layout": lambda: "locuslab-mondeq",
    "sigma": lambda: activations.activation("relu"), "module": lambda: nn.ReLU(), "layers": lambda: (wp.ImplicitGraph(3, 4),),
    "head": lambda: nn.Linear(4, 2), "outputs": lambda: 2, "Smooth.name": lambda: "own", "function": lambda: torch.tanh,
    "slope": lambda: lambda value: 1 - torch.tanh(value) ** 2,
    "matrix": lambda: 0.1 * torch.eye(4), "metric": lambda: torch.ones(4), "input_weight": lambda: 0.1 * torch.ones(4, 3),
    "LBEN.set_dense.output_weight": lambda: 0.1 * torch.ones(2, 4), "gamma": lambda: 2.0, "graphs": lambda: _graph(4),
    "LBEN.from_network.network": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(),
    "GroupSort.forward.x": lambda: torch.rand(2, 4), "ImplicitGraph.forward.x": lambda: torch.rand(4, 3),
    "SLL.forward.x": lambda: torch.rand(2, 4), "ConvOrthogonalDEQ.solve.x": lambda: torch.rand(2, 1, 4, 4),
    "Normalize.forward.x": lambda: torch.rand(2, 1, 4, 4), "OrthogonalConv2d.forward.x": lambda: torch.rand(2, 1, 4, 4),
    "UnitPool2d.forward.x": lambda: torch.rand(2, 1, 4, 4), "Graphs.of.data": lambda: _graph_data(),
    "Verifier.verify.x": lambda: torch.rand(3), "label": lambda: 0,
    "Certificate.of.result": lambda: _network().bounded(torch.rand(4, 3)),
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


@functools.cache
def _place() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def _saved() -> Path:
    """A network folder."""
    _certificate()
    return Path(_place().name) / "network"


@functools.cache
def _certificate() -> wp.Certificate:
    """The certificate of the network in that folder."""
    return wp.certify(wp.save(_model(), Path(_place().name) / "network", input_shape=(3,)))


def _network() -> wp.Network:
    """The network of that certificate."""
    return _certificate().network


def _graph(nodes: int) -> wp.Graphs:
    return wp.Graphs(torch.tensor([[0, 1], [1, 0]]), nodes)


def _graph_data() -> Any:
    from torch_geometric.data import Data

    return Data(x=torch.rand(2, 3), edge_index=torch.tensor([[0, 1], [1, 0]]))


@functools.cache
def _table() -> Path:
    """A file of a user's own."""
    path = Path(_place().name) / "own.npz"
    np.savez(path, **_arrays())
    return path


@functools.cache
def _weights() -> Path:
    """Published weights."""
    path, layer = Path(_place().name) / "a.pt", "mon.linear_module"
    shapes = {"U.weight": (3, 4), "U.bias": (3,), "A.weight": (3, 3), "B.weight": (3, 3)}
    tensors = {f"{layer}.{name}": torch.ones(shape) for name, shape in shapes.items()}
    torch.save({**tensors, "Wout.weight": torch.ones(2, 3), "Wout.bias": torch.ones(2)}, path)
    return path


def _arrays() -> dict[str, Any]:
    rows = np.random.default_rng(0).normal(size=(20, 3))
    return {"x_train": rows, "y_train": np.arange(20) % 2}


def _set() -> Any:
    return data.from_arrays(_arrays())


# Records that functions of the library give, parts that its inner loops make, and helpers that modules import: nobody else calls
# them. What bounds and classes are registered is of the whole program, and is tested where that is undone.
NOT_CALLED = {
    "AffineProblem", "Block", "Bordered", "Bound", "Certificate", "Concavity", "DenseWeights", "DiagonalLinear", "Embedding",
    "GraphData", "ImageData", "Network", "NetworkFolder", "Own", "PacBayesBound", "PartlyLinear", "register", "register_bound",
    "unregister_bound",
    "Projected", "Published", "Solution", "Source", "Status", "TensorData", "TorchForm", "Trained", "TwoEquilibria", "VectorData",
    "Verdict", "WellPosedness", "Witness", "Wrapped", "check_labels",
}  # fmt: skip
# Sub-modules that programs use beside the package itself.
MODULES = (losses, data, attacks, interop, deployment, activations, verification, models, certificates)


def public() -> dict[str, Callable[..., Any]]:
    """Every public function and class that users call: of the package, of the sub-modules that programs use, and the families.

    Errors, abstract classes and the names of `NOT_CALLED` are left out.
    """
    found = {name: getattr(wp, name) for name in wp.__all__}
    found |= {name: part for module in MODULES for name, part in vars(module).items() if not name.startswith("_")}
    found |= {family.__name__: family for family in wp.families.FAMILIES.values()}
    return {name: part for name, part in found.items() if name not in NOT_CALLED and _is_called(part)}


def _is_called(part: Any) -> bool:
    place = getattr(part, "__module__", "")
    if not callable(part) or not place.startswith("wellposed.") or place == "wellposed.errors":
        return False
    return not inspect.isclass(part) or not (issubclass(part, Exception) or inspect.isabstract(part))


# Methods that users call, of instances that their classes' valid calls give, or of these.
METHODS = (
    "__call__", "bounded", "check", "evaluate", "forward", "from_network", "gain", "of", "radii", "radius", "set_dense",
    "set_gamma", "solve", "verify", "verify_batch",
)  # fmt: skip
INSTANCES: dict[type, Callable[[], Any]] = {
    wp.Certificate: lambda: _certificate(), wp.Network: lambda: _network(),
    deployment.NetworkFolder: lambda: wp.load(_saved()),
    wp.LBEN: lambda: wp.LBEN(3, 4, gamma=1.0, out_features=2),
}  # fmt: skip
# Classes whose methods algorithms call with what they made, or that are plain modules around functions of torch.
_OF_ALGORITHMS = (Activation, Solver, Guarantee, Elementwise, wp.TrainingModule)

_OF_COMPILED_PROGRAMS = {"DEQ.evaluate", "ImplicitGraph.evaluate", "OrthogonalConv2d.evaluate"}


def methods() -> dict[str, Callable[..., Any]]:
    """The methods of `METHODS`, each for the first class that has it."""
    classes = dict.fromkeys([*filter(inspect.isclass, public().values()), *INSTANCES])
    found: dict[str, tuple[str, Callable[..., Any]]] = {}
    for cls in classes:
        for name in METHODS if not issubclass(cls, _OF_ALGORITHMS) else ():
            method = getattr(cls, name, None)
            if getattr(method, "__module__", "").startswith("wellposed."):
                found.setdefault(method.__qualname__, (f"{cls.__name__}.{name}", _method(cls, name)))
    return {subject: method for subject, method in found.values() if subject not in _OF_COMPILED_PROGRAMS}


def _method(cls: type, name: str) -> Callable[..., Any]:
    """A method of an instance that is made at each call, with the method's own signature."""

    def call(*args: Any, **kwargs: Any) -> Any:
        instance = INSTANCES[cls]() if cls in INSTANCES else valid_call(cls.__name__)
        return getattr(instance, name)(*args, **kwargs)

    found = inspect.getattr_static(cls, name)
    own = not isinstance(found, classmethod | staticmethod)
    parameters = list(inspect.signature(getattr(cls, name)).parameters.values())[int(own) :]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


SUBJECTS = {**public(), **methods()}

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


def without_values(subject: str) -> list[str]:
    """Arguments that a subject needs and for which there is no valid value here."""
    return [name for name in _needed(subject) if _valid(subject, name) is None]


def valid_call(subject: str) -> Any:
    """The result of a subject with valid arguments."""
    return SUBJECTS[subject](**{name: _valid(subject, name)() for name in _needed(subject)})


def calls(subject: str, *, all_values: bool) -> Iterator[Call]:
    """A subject with every argument and every unusable value, or with those that nothing takes and two more that are drawn."""
    for argument in _parameters(subject):
        if argument not in SKIPPED:
            found = [Call(subject, argument, value) for value in UNUSABLE]
            drawn = random.Random(f"{subject} {argument}").sample(found, 2)
            yield from (call for call in found if all_values or call in drawn or must_be_refused(call))


def _parameters(subject: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(SUBJECTS[subject]).parameters)


def _needed(subject: str) -> list[str]:
    return [
        name
        for name, parameter in _parameters(subject).items()
        if f"{subject}.{name}" in VALID
        or (parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD)
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
    ("load_graphs", "name"): "data", ("load_graphs", "data_root"): "--data-root", ("save", "norms"): "norm",
}  # fmt: skip


def must_be_refused(call: Call) -> bool:
    """Whether no function can take a value for that argument."""
    return call.value in ("nan", "an object", "a list of text") and (call.subject, call.argument) not in _TAKE_ANYTHING


# For a set that needs no files; questions whose answer is then no; names of what users define.
_TAKE_ANYTHING = {("load_images", "data_root"), ("of_module", "module"), ("name_of", "sigma")}


def refusal(call: Call) -> str | None:
    """The library's own message about a call; None where it was taken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except wp.WellposedError as error:
            return str(error)
    return None
