"""Deployed files of networks on images of several sizes: onnxruntime against exact solves, and proofs of their certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wellposed as wp

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
