"""Ten thousand inputs for every family of deployed files: onnxruntime errs by no more than the file's own bound says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import wellposed as wp
from test_export import IMAGES, LAYERS, session
from test_export_convolutional import behind, moved
from test_export_scales import LAYERS as TIERS
from test_export_scales import model_of
from wellposed.deployment import export

onnxruntime = pytest.importorskip("onnxruntime")
# Solves in float64 that come near to their rounding floor say so, and count their own error.
pytestmark = [pytest.mark.float32, pytest.mark.filterwarnings("ignore::wellposed.errors.NotConvergedWarning")]

SCALES = (1e-6, 1e-3, 1.0, 1e2, 1e4, 1e6)
BATCHES = (1, 7, 128)

FAMILIES = {
    **{name: (make, (6,)) for name, make in LAYERS.items()},
    **{name: (lambda block=block: behind(block, (2, 6, 6)), (2, 6, 6)) for name, block in IMAGES.items()},
    "channelwise": (lambda: behind(moved(wp.ConvNEMON(1, 3, (5, 6))), (1, 5, 6)), (1, 5, 6)),
    "positive on images": (lambda: behind(wp.ConvPcDEQ(1, 3, (5, 6)), (1, 5, 6)), (1, 5, 6)),
    "circular": (lambda: behind(moved(wp.ConvMonDEQ(1, 3, (5, 6), border=1)), (1, 5, 6)), (1, 5, 6)),
    "bounded on images": (
        lambda: moved(wp.ConvLBEN(1, 3, (5, 6), gamma=2.0, out_features=4, pool=2, stride=2)), (1, 5, 6)
    ),
    "orthogonal": (lambda: behind(moved(wp.OrthogonalConv2d(1, 4, (5, 6), stride=2)), (1, 5, 6)), (1, 5, 6)),
    "cells on images": (lambda: behind(moved(wp.ConvOrthogonalDEQ(1, 4, (5, 6))), (1, 5, 6)), (1, 5, 6)),
    "cells": (lambda: behind(moved(wp.OrthogonalDEQ(6, 8, depth=2)), (6,)), (6,)),
    **{name: (lambda name=name: model_of(name)[0], (2, *TIERS[name][1])) for name in TIERS},
}  # fmt: skip


def violations(model: nn.Module, shape: tuple[int, ...], path: Path, count: int) -> tuple[int, int, int]:
    """Of so many inputs of all sizes: answers off by more than their bound, answers that are refused, and unknown exact ones."""
    network = export(model.eval(), path, tolerance=1e30, input_shape=shape)
    run, exact, wrong, refused, unknown, seen = session(path), network.exact, 0, 0, 0, 0
    generator = torch.Generator().manual_seed(0)
    while seen < count:
        for size in BATCHES:
            for scale in SCALES:
                x = scale * torch.randn(size, *shape, generator=generator)
                logits, bound = (torch.from_numpy(part).double() for part in run.run(None, {"x": x.numpy()}))
                reference = exact.bounded(x.double())
                error = (logits - reference.logits).flatten(1).norm(dim=1)
                off = ~(error <= bound + reference.error)
                wrong, refused, seen = wrong + int(off.sum()), refused + int(torch.isinf(bound).sum()), seen + size
                unknown += int((~(reference.error <= bound)).sum())
    return wrong, refused, unknown


def sample_of(name: str, path: Path, count: int) -> tuple[int, int, int]:
    torch.manual_seed(0)
    make, shape = FAMILIES[name]
    return violations(make(), shape, path, count)


@pytest.mark.parametrize("name", ["mondeq", "positive, normalised", "maximum", "channelwise", "cells"])
def test_some_inputs_of_all_sizes(name: str, tmp_path: Path):
    assert sample_of(name, tmp_path / "m.onnx", 100)[:2] == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_ten_thousand_inputs(name: str, tmp_path: Path):
    wrong, refused, unknown = sample_of(name, tmp_path / "m.onnx", 10_000)
    print(f"{name}: {wrong} violations, {refused} without an answer, {unknown} with no nearer reference, of 10,000")
    assert wrong == 0
