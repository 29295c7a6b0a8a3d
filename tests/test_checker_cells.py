"""Certificates of deployed files with orthogonal convolutions and cells: honest ones are accepted, forged ones are refused."""

from __future__ import annotations

import functools
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.deployed_files import (
    accepted,
    changed,
    claim_of,
    forge,
    is_accepted,
    refused,
    set_to,
    slopes,
    stored,
    times,
    written,
)
from wellposed.checker import Refuted
from wellposed.checker.circular import norm_at_frequencies
from wellposed.checker.functions import function
from wellposed.checker.node import Node
from wellposed.checker.placed import moved as moved_pixels
from wellposed.checker.placed import shape as shape_of_placed

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32


def moved(module):
    """A module with all parameters moved at random."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def headed(layer, size):
    return lambda: nn.Sequential(moved(layer()), nn.Flatten(), nn.Linear(size, 3))


def convolutions():
    first, second = wp.OrthogonalConv2d(2, 4, (5, 6), stride=2), wp.OrthogonalConv2d(4, 3, (3, 3))
    return nn.Sequential(first, wp.GroupSort(dim=-3), second)


MODELS = {
    "convex": (headed(lambda: wp.OrthogonalDEQ(9, 8, coupling="convex", omega=0.4, depth=2), 8), (9,)),
    "additive": (headed(lambda: wp.OrthogonalDEQ(9, 8, coupling="additive", kappa=0.6), 8), (9,)),
    "joint": (headed(lambda: wp.OrthogonalDEQ(3, 8, coupling="joint", kappa=0.8), 8), (3,)),
    "residual": (headed(lambda: wp.OrthogonalDEQ(9, 8, coupling="residual", parametrisation="bjorck"), 8), (9,)),
    "convolutions": (headed(convolutions, 27), (2, 5, 6)),
    "image convex": (
        headed(lambda: wp.ConvOrthogonalDEQ(2, 2, (5, 4), coupling="convex", omega=0.4, encode=False), 40),
        (2, 5, 4),
    ),
    "image residual": (
        headed(lambda: nn.Sequential(wp.ConvOrthogonalDEQ(1, 4, (5, 6), stride=2), wp.UnitPool2d(3)), 4),
        (1, 5, 6),
    ),
}


@functools.cache
def original(name, folder):
    torch.manual_seed(0)
    model, shape = MODELS[name]
    place = folder / f"cells-{name}"
    place.mkdir()
    return place, written(model(), place, shape)


@pytest.fixture
def honest(tmp_path, tmp_path_factory):
    """A function that gives a fresh copy of the files of a model, and its certificate."""
    base = tmp_path_factory.getbasetemp() / "originals"
    base.mkdir(exist_ok=True)

    def copied(name):
        place, certificate = original(name, base)
        shutil.copytree(place, tmp_path, dirs_exist_ok=True)
        return tmp_path, certificate

    return copied


def one_more(array):
    """An entry of an array moved to the next number."""
    array[0, 0] = np.nextafter(array[0, 0], 9.0)
    return array


def twice(array):
    """The place of the first pixel in that of the last, too."""
    array.reshape(-1)[-1] = array.reshape(-1)[0]
    return array


@pytest.mark.parametrize("name", MODELS)
def test_honest_files_are_accepted_with_constants_that_hold(name, honest):
    folder, certificate = honest(name)
    lines, claim = accepted(folder), claim_of(folder)
    assert any(word in line for line in lines for word in ("contraction 0.", "norm 1.0"))
    assert claim["lipschitz"] == pytest.approx(certificate.lipschitz, rel=1e-6)
    assert np.array(claim["pairs"]) == pytest.approx(certificate.pairs.numpy(), rel=1e-6)
    whole, pairs = slopes(certificate.network, MODELS[name][1], "2")
    assert whole <= claim["lipschitz"] and (pairs <= np.array(claim["pairs"]) + 1e-12).all()
    forge(folder, lambda claim: claim.update(lipschitz=claim["lipschitz"] * (1.0 - 1e-6)))
    refused(folder, "is claimed")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Sequential(
            wp.Normalize((0.1, 0.2), (0.3, 0.4)), nn.Flatten(), wp.OrthogonalDEQ(6, 8, coupling="joint")
        ),
        lambda: nn.Sequential(nn.Flatten(), wp.OrthogonalDEQ(6, 8, coupling="convex", omega=1.0)),
        lambda: nn.Sequential(
            wp.OrthogonalConv2d(2, 2, (1, 3), bias=False), wp.ConvOrthogonalDEQ(2, 8, (1, 3), omega=1.0)
        ),
    ],
    ids=["normalised", "driven alone", "without a bias"],
)
def test_cells_among_other_parts_are_proved(layer, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 2, 1, 3))
    certificate = written(model, tmp_path, (2, 1, 3))
    accepted(tmp_path)
    assert claim_of(tmp_path)["lipschitz"] == pytest.approx(certificate.lipschitz, rel=1e-6)


CELLS = {"convex": "Feature", "additive": "Feature", "joint": "Feature", "residual": "Feature"} | dict.fromkeys(
    ("image convex", "image residual"), "Channel"
)
FORGERIES = [
    ("contraction", times(0.5), "contraction"),
    ("contraction", times(1.0 - 1e-5), "contraction"),
    ("contraction", set_to(1.0), "options"),
    ("contraction", set_to(-1.0), "options"),
    ("kappa", set_to(0.0), "options"),
    ("kappa", set_to(-0.5), "options"),
    ("kappa", set_to(1.0 + 1e-9), "options"),
    ("direct", lambda array: array + 0.01, "contraction"),
    ("direct", lambda array: array - 1.0, "options"),
    ("through", times(1.001), "contraction"),
    ("through", times(-1.0), "options"),
    ("driven", times(1.001), "is claimed"),
    ("driven", times(-1.0), "options"),
    ("sorts_inner", set_to(2), "options"),
    ("sorts_outer", set_to(-1), "options"),
    ("sorts_outer", lambda array: array + 3, "options"),
]


@pytest.mark.parametrize("name", CELLS)
def test_other_numbers_of_cells_are_refused(name, honest):
    for role, change, words in FORGERIES:
        folder, _ = honest(name)
        forge(folder, model=lambda m, r=role, c=change: change_of_cell(m, r, c))
        refused(folder, words)


def change_of_cell(model, role, change):
    """Change a number of a cell, which it gets for itself if it shares it."""
    node = next(node for node in model.graph.node if "CellEquilibrium" in node.op_type)
    index = list(function(node.op_type).input).index(role)
    name = node.input[index]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    if sum(list(part.input).count(name) for part in model.graph.node) > 1:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(next(other for other in model.graph.initializer if other.name == name))
        tensor.name = node.input[index] = "Cell.own"
    changed(tensor, change)


@pytest.mark.parametrize(
    ("name", "words", "change", "reason"),
    [
        ("convex", ".weights", times(1.001), "contraction"),
        ("convex", ".weights", lambda array: array[..., :-1], "numbers"),
        ("convolutions", ".norm", times(0.5), "norm"),
        ("convolutions", ".norm", times(1.0 - 1e-5), "norm"),
        ("convolutions", ".transfer", times(1.001), "norm"),
        ("convolutions", ".index", twice, "places"),
        ("convolutions", ".index", times(-1), "places"),
        ("convolutions", ".index", lambda array: array + 1, "places"),
        ("convolutions", ".rows", one_more, "transform"),
        ("image convex", ".columns", one_more, "transform"),
        ("image convex", ".columns", lambda array: array[::-1], "transform"),
        ("image convex", ".columns", lambda array: np.roll(array, 1, 1), "transform"),
        ("image residual", ".transfer.0", times(1.01), "contraction"),
        ("image residual", ".transfer.1", times(1.01), "contraction"),
        ("image convex", ".rows", one_more, "transform"),
    ],
)
def test_other_maps_are_refused(name, words, change, reason, honest):
    folder, _ = honest(name)

    def change_model(model):
        found = [tensor for tensor in model.graph.initializer if words in tensor.name]
        changed(found[-1] if "transfer" in words and name.startswith("image") else found[0], change)

    forge(folder, model=change_model)
    refused(folder, reason)


def test_dimensions_are_those_of_the_image(honest):
    for name, words, extents in (
        ("convolutions", ".rows", [3, 2]),
        ("convolutions", ".transfer", [3, 4, 2, 8, 2]),
        ("convolutions", ".bias", [1, 4, 1]),
        ("image convex", ".transfer.0", [4, 3, 5, 4, 2]),
        ("image convex", ".bias.1", [1, 2, 1]),
        ("convex", ".biases", [8, 2]),
        ("convex", ".weights", [1, 16, 8]),
        ("convex", ".inner", [1]),
    ):
        folder, _ = honest(name)
        forge(folder, model=lambda m, w=words, e=extents: stored(m, w).dims.__setitem__(slice(None), e))
        assert not is_accepted(folder), (name, words)


class TestJoint:
    def test_other_ratios_prove_larger_constants_only(self, honest):
        _, certificate = honest("joint")
        for factor in (0.5, 1.0 + 1e-3, 2.0):
            folder, _ = honest("joint")
            forge(folder, evidence=lambda tensors, f=factor: tensors["2/ratio"].__imul__(f))
            assert not is_accepted(folder)
        assert certificate.lipschitz < 2.0

    def test_holds_for_one_map_that_is_not_sorted_inside(self, honest):
        folder, _ = honest("joint")
        forge(folder, model=lambda model: change_of_cell(model, "sorts_inner", set_to(1)))
        refused(folder, "joint")

    def test_ratios_are_for_such_cells(self, honest):
        for name in ("additive", "convolutions"):
            folder, _ = honest(name)
            forge(folder, evidence=lambda tensors: tensors.update({"2/ratio": np.ones(1)}))
            assert not is_accepted(folder)


@pytest.mark.parametrize("image", [(3, 4), (4, 5), (1, 6), (5, 1), (2, 2)])
@pytest.mark.parametrize("size", [(2, 3), (3, 2), (1, 1)])
def test_norms_are_those_of_the_matrices_of_all_pixels(image, size):
    """The matrices need not be those of a real map: of what they say at frequencies that are their own conjugates half counts."""
    rows, columns = image
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((rows, columns // 2 + 1, *size, 2)).astype(np.float32).astype(np.float64)
    node = Node(1, "Circular", "", 1.0, (0,), {"T": numbers}, (size[0], *image))
    pixels = np.eye(size[1] * rows * columns).reshape(-1, size[1], rows, columns)
    seen = np.einsum("hvoi,bihv->bohv", numbers[..., 0] + 1j * numbers[..., 1], np.fft.rfft2(pixels))
    value = np.fft.irfft(np.fft.ifft(seen, axis=2), columns, axis=3).reshape(len(pixels), -1)
    exact, proved = np.linalg.norm(value, 2), norm_at_frequencies(node, "T", size)
    assert exact * (1.0 - 1e-12) <= proved <= exact * (1.0 + 1e-10)


def test_the_runtime_computes_the_convolution_whose_norm_is_proved(honest):
    """Of matrices that are changed at one frequency, which is its own conjugate, and not to a real one."""
    folder, _ = honest("convolutions")

    def change(array):
        array[1, 0, :, :, 1] += 0.5
        return array

    forge(folder, model=lambda model: changed(stored(model, "Circular_2.transfer"), change))
    refused(folder, "norm")
    forge(folder, model=lambda model: changed(stored(model, "Circular_2.norm"), times(2.0)))
    refused(folder, "is claimed")
    forge(folder, lambda claim: claim.update(lipschitz=claim["lipschitz"] * 2.0, pairs=None))
    accepted(folder)
    session = onnxruntime.InferenceSession(folder / "m.onnx")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 2, 5, 6)).astype(np.float32)
    logits, error = session.run(None, {"x": x})
    apart = np.linalg.norm(logits[1:].astype(float) - logits[:-1], axis=1) - error[1:] - error[:-1]
    size = np.linalg.norm((x[1:].astype(float) - x[:-1]).reshape(499, -1), axis=1)
    assert np.isfinite(error).all() and (apart <= claim_of(folder)["lipschitz"] * size).all()


class TestPlaced:
    @staticmethod
    def node(index, shape):
        numbers = {"index": np.array(index), "shape": np.array([0, *shape])}
        return Node(1, "Placed", "", 1.0, (0,), numbers, shape)

    def test_pixels_are_in_one_place_each(self):
        assert shape_of_placed(self.node([4, 0, 1, 4, 2, 3], (2, 2, 3)), (2, 2, 2)) == (2, 2, 3)
        for index, shape, given in (
            ([4, 0, 1, 4, 2, 2], (2, 2, 3), (2, 2, 2)),
            ([4, 0, 1, 4, 2, 5], (2, 2, 3), (2, 2, 2)),
            ([4, 0, 1, 4, 2, -1], (2, 2, 3), (2, 2, 2)),
            ([4, 0, 1, 4, 2, 3], (2, 3, 3), (2, 2, 2)),
            ([4, 0, 1, 4, 2, 3], (2, 2, 3), (8,)),
            ([4, 0, 1, 4, 2, 3], (12,), (2, 2, 2)),
            (0, (2, 1, 1), (2, 2, 2)),
        ):
            with pytest.raises(Refuted):
                shape_of_placed(self.node(index, shape), given)

    def test_entries_move_as_those_that_they_were(self):
        index = [[4, 0], [1, 3]]
        node, given = self.node(index, (4, 1, 2)), np.arange(24.0).reshape(8, 3)
        pixels = np.concatenate([given.reshape(2, 4, 3), np.zeros((2, 1, 3))], 1)
        assert (moved_pixels(node, given) == pixels[:, np.array(index)].reshape(8, 3)).all()
