"""Training steps of layers against the original algorithm of monotone layers, and against another checkout of this library."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wellposed.benchmarking import training_subject
from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.contest import Rules, contest
from wellposed.benchmarking.contestant import OWN, Contestant, elsewhere, source_of, version_at
from wellposed.benchmarking.row import Row
from wellposed.benchmarking.training_rival import names_of, original
from wellposed.benchmarking.training_subject import build, of_layer

_SUBJECT = Path(training_subject.__file__)
# Family, width, batch.
_MONOTONE = (
    ("MonDEQ", 40, 128),
    ("MonDEQ", 87, 128),
    ("MonDEQ", 200, 128),
    ("MonDEQ", 512, 128),
    ("ConvMonDEQ", 32, 16),
)
_OTHERS = (
    ("MonDEQ", 40, 128), ("MonDEQ", 87, 128), ("MonDEQ", 200, 128), ("MonDEQ", 512, 128), ("NEMON", 512, 128),
    ("PcDEQ", 512, 128), ("ConvPcDEQ", 24, 16), ("ConvMonDEQ", 54, 16), ("ConvOrthogonalDEQ", 64, 128),
    ("OrthogonalDEQ", 400, 128),
)  # fmt: skip
# Small margins, where proved bounds are far above typical errors; with options of the layers.
_SMALL_MARGINS: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("MonDEQ", 200, 128, {"m": 0.01}), ("LBEN", 200, 128, {"epsilon": 0.001}),
)  # fmt: skip
_QUICK = (("MonDEQ", 12, 8),)


def rows(options: Options) -> Iterator[Row]:
    """Rows against the authors' algorithm, then against the other checkout."""
    rules = Rules(tolerances=1, target=1e-3, seconds=0.2 if options.quick else 6.0)
    for family, width, batch in _QUICK if options.quick else _MONOTONE:
        with tempfile.TemporaryDirectory() as folder:
            path, case = write_case(Path(folder), family, width, batch)
            own = Contestant.of("training step", of_layer(str(path), tuple(names_of(case))))
            rival = Contestant.of("authors' algorithm", original(case))
            yield from contest(_name(family, width, batch), [own], [rival], rules)
    for family, width, batch in _QUICK if options.quick else _OTHERS:
        yield from _against(options, rules, family, width, batch, {})
    for family, width, batch, margin in () if options.quick else _SMALL_MARGINS:
        yield from _against(options, replace(rules, tolerances=0), family, width, batch, margin)


def _against(
    options: Options, rules: Rules, family: str, width: int, batch: int, given: dict[str, Any]
) -> Iterator[Row]:
    """Rows against the other checkout, at default tolerances where the rules have none."""
    named = "".join(f", {option} = {value}" for option, value in given.items())
    name = _name(family + named, width, batch) + ("" if rules.tolerances else ", default tolerances")
    if options.against is None:
        yield Row(name, "training step", "another checkout", remark="no checkout given")
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = str(write_case(Path(folder), family, width, batch, given)[0])
        own, rival = (
            stack.enter_context(elsewhere(label, source, _SUBJECT, "of_layer", {"path": path}))
            for label, source in (("training step", OWN), (version_at(options.against), source_of(options.against)))
        )
        yield from contest(name, [own], [rival], rules)


def write_case(
    folder: Path, family: str, width: int, batch: int, options: dict[str, Any] | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write weights, inputs and a cotangent, with values and gradients in float64, for all sides to load.

    Args:
        folder: for the file.
        family: of the layer.
        width: of its state.
        batch: number of inputs.
        options: of the layer.

    Returns:
        The file, and what is in it.
    """
    torch.manual_seed(0)
    given = options or {}
    layer = build(family, width, **given)
    x = torch.rand(batch, *layer.input_shape, device="cpu")
    exact = build(family, width, dtype=torch.float64, rtol=1e-10, atol=1e-10, **given)
    exact.load_state_dict(layer.state_dict())
    value = exact(x.double())
    cotangent = torch.randn(value.shape, dtype=torch.float64, device="cpu") / value[0].numel()
    value.backward(cotangent)
    gradients = {name: part.grad for name, part in exact.named_parameters() if part.grad is not None}
    case = {
        "family": family, "width": width, "options": given, "x": x, "cotangent": cotangent.float(),
        "state": dict(layer.state_dict()), "value": value.detach(),
        "gradients": {name: found for name, found in gradients.items() if found.norm() > 0},
    }  # fmt: skip
    path = folder / "case.pt"
    torch.save(case, path)
    return path, case


def _name(family: str, width: int, batch: int) -> str:
    return f"{family}, {width} wide, batch {batch}"


TRAINING = Benchmark(
    name="training",
    title="Training steps",
    explained="Forward, backward and a step of Adam, float32. The rival is the algorithm of the authors of monotone equilibrium"
    " networks, written anew from its description, at the step size of their tuner; or another version of this "
    "library, each version in a process of its own. The rival's tolerance is the loosest with which all errors are "
    "below 1e-3, ours the loosest with which none is above the rival's. At "
    "default tolerances, 2.4e-5 relative and absolute, less exact values than the rival's may be as exact as asked for.",
    errors=("values, median", "values, worst", "gradients, median", "gradients, worst"),
    rows=rows,
)
