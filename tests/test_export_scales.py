"""Deployed files of networks on images of several sizes: onnxruntime against exact solves, and proofs of their certificates."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.deployed_files import accepted, changed, claim_of, forge, refused, slopes, stored, written
from wellposed.checker import check

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32

LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, int], dict[str, Any]]] = {
    "two tiers": ((3, 4), (8, 8), {}),
    "with a border": ((3, 4, 2), (16, 8), {"border": 1, "stride": 2}),
    "rough": ((2, 3), (4, 8), {"activation": "tanh", "m": 0.2}),
    "one row": ((2, 3, 2), (1, 8), {"activation": "softplus", "taps": 1, "input_taps": 3}),
    "no bias": ((2, 3), (4, 4), {"activation": "relu6", "border": 1, "bias": False}),
}


def model_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with other parameters than a layer begins with."""
    channels, image, options = LAYERS[name]
    torch.manual_seed(0)
    layer = wp.MultiScaleMonDEQ(2, channels, image, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * (parameter.square().mean().sqrt() + 0.1))
        features = layer(torch.zeros(1, 2, *image))[0].numel()
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(features, 3)).eval(), (2, *image)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(path, options)


@pytest.mark.parametrize("name", LAYERS)
def test_errors_are_within_their_bounds(name: str, tmp_path: Path) -> None:
    model, shape = model_of(name)
    network, run = wp.export(model, tmp_path / "m.onnx"), session(tmp_path / "m.onnx")
    for batch, scale in ((1, 1.0), (7, 1e-3), (128, 1.0), (128, 30.0)):
        x = scale * torch.randn(batch, *shape)
        logits, bound = (torch.from_numpy(part).double() for part in run.run(None, {"x": x.numpy()}))
        exact = network.exact.bounded(x.double())
        assert bool(((logits - exact.logits).norm(dim=1) <= bound + exact.error).all())
        assert bool((bound <= 1e-3).all())


def test_iterations_that_are_missing_are_counted() -> None:
    model, shape = model_of("two tiers")
    network, x, last = wp.materialise(model), torch.randn(9, *shape), torch.inf
    exact = network.exact(x.double())
    for steps in (1, 4, 40):
        logits, bound = wp.deployable(network, steps)(x)
        assert bool(((logits.double() - exact).norm(dim=1) <= bound.double() + 1e-8).all())
        assert float(bound.max()) <= last
        last = float(bound.max())
    assert last <= 1e-3


@pytest.mark.parametrize("name", LAYERS)
def test_certificates_are_proved(name: str, tmp_path: Path) -> None:
    model, shape = model_of(name)
    certificate = written(model, tmp_path, shape)
    accepted(tmp_path)
    claimed = claim_of(tmp_path)["lipschitz"]
    assert claimed <= certificate.lipschitz * (1 + 1e-6)
    # Of images of one row the checker knows that other rows of a kernel see nothing.
    assert name == "one row" or claimed >= certificate.lipschitz * (1 - 1e-6)
    assert certificate.network is not None
    assert slopes(certificate.network, shape, "2", count=10)[0] <= claimed * (1 + 1e-6)


def seen_between(model: onnx.ModelProto) -> None:
    """Let the next size take pixels that the one before does not keep."""
    changed(stored(model, "Placed_5.index"), lambda a: a + (a < 36))


TIER = "TierEquilibrium_relu6_3."


def larger_drive(model: onnx.ModelProto) -> None:
    """Let one size drive the next one more, with a norm that is proved."""
    changed(stored(model, "Circular_6.transfer"), lambda a: 1.1 * a)
    changed(stored(model, "Circular_6.norm"), lambda a: 1.11 * a)


def another_kernel(model: onnx.ModelProto) -> None:
    """Let the tier have another K than what drives the next one."""
    tensor = onnx.TensorProto()
    tensor.CopyFrom(stored(model, TIER + "down"))
    tensor.name = "Tier.other"
    changed(tensor, lambda a: 0.5 * a)
    model.graph.initializer.append(tensor)
    model.graph.node[4].input[2] = "Tier.other"


def drive_by_column(model: onnx.ModelProto) -> None:
    """Let the tier be driven with a step for each column, which its function divides bounds of samples by."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(8, np.float32), "Tier.steps"))
    tier = next(node for node in model.graph.node if node.op_type.startswith("TierEquilibrium"))
    tier.input[list(tier.input).index(TIER + "drive")] = "Tier.steps"


CHANGES: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "sensitivity": (lambda m: changed(stored(m, TIER + "sensitivity"), lambda a: 0.9 * a), "sensitivity: "),
    "state map": (lambda m: changed(stored(m, TIER + "transfer"), lambda a: a + 0.1), "sensitivity: "),
    "half kept": (lambda m: changed(stored(m, TIER + "keep"), lambda a: 0.5 * a), "options: "),
    "another shape of those": (lambda m: stored(m, TIER + "keep").dims.insert(0, 1), "shapes: "),
    "half masked": (lambda m: changed(stored(m, TIER + "mask"), lambda a: 0.5 * a), "options: "),
    "roots of unity": (lambda m: changed(stored(m, TIER + "rows"), lambda a: a * (1 + 1e-15)), "transform: "),
    "a step for each column": (drive_by_column, "shapes: "),
    "norm": (lambda m: changed(stored(m, "Circular_6.norm"), lambda a: 0.99 * a), "norm: "),
    "drive": (larger_drive, "lipschitz: "),
    "nothing kept": (lambda m: changed(stored(m, TIER + "keep"), lambda a: 0.0 * a), "lipschitz: "),
    "other pixels": (seen_between, "lipschitz: "),
    "no feedback to the tier": (another_kernel, "lipschitz: "),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, shape = model_of("no bias")
    found = tmp_path_factory.mktemp("tiers")
    written(model, found, shape)
    return found


def test_the_proof_is_exact_too(folder: Path) -> None:
    pytest.importorskip("flint")
    assert any("rational" in line for line in check(folder / "c.json", folder / "m.onnx", exact=True))


@pytest.mark.parametrize("name", CHANGES)
def test_changed_files_are_refused(name: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change, reason = CHANGES[name]
    forge(tmp_path, model=change)
    refused(tmp_path, reason)
