"""Certificates of deployed files with equilibria on images: honest ones are accepted, forged ones are refused."""

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
from wellposed.checker import correlation
from wellposed.checker.circulated import convolution
from wellposed.checker.frequencies import gram, norm_of_gram, waves
from wellposed.checker.model import read
from wellposed.errors import CertificateError
from wellposed.network.deployed import circular_patches, patches
from wellposed.numerics.roots_of_unity import roots_of_unity

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32


def moved(module):
    """A module with all parameters moved at random."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def headed(layers, shape, classes=3):
    """Layers and a head that reads all of their value."""

    def model():
        parts = nn.Sequential(*(moved(layer) for layer in layers()))
        with torch.no_grad():
            features = parts(torch.randn(8, *shape))[0].numel()
        return nn.Sequential(parts, nn.Flatten(), nn.Linear(features, classes))

    return model, shape


class Branched(nn.Module):
    """A sum of two equilibria of one image."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = wp.ConvMonDEQ(1, 2, (4, 3)), wp.ConvNEMON(1, 2, (4, 3)), nn.Linear(24, 3)

    def forward(self, x):
        return self.third((self.first(x) + self.second(x)).flatten(1))


def positive(*args, **options):
    return lambda: [wp.ConvPcDEQ(*args, **options)]


MODELS = {
    "circular": headed(lambda: [wp.ConvMonDEQ(1, 2, (5, 4))], (1, 5, 4)),
    "circular tanh": headed(lambda: [wp.ConvMonDEQ(2, 3, (4, 5), activation="tanh"), nn.AvgPool2d(2)], (2, 4, 5)),
    "bordered": headed(lambda: [wp.ConvMonDEQ(2, 2, (7, 4), stride=2, border=1), nn.AvgPool2d(2)], (2, 7, 4)),
    "kept zero": headed(lambda: [wp.ConvMonDEQ(1, 2, (4, 3), border=1)], (1, 4, 3)),
    "one row": headed(lambda: [wp.ConvMonDEQ(1, 2, (1, 6), taps=1)], (1, 1, 6)),
    "normalised": headed(lambda: [wp.ConvMonDEQ(2, 2, (4, 4))], (2, 4, 4)),
    "scaled": headed(lambda: [wp.ConvLBEN(1, 2, (7, 6), stride=3, input_taps=5)], (1, 7, 6)),
    "pixel metric": headed(lambda: [wp.ConvLBEN(1, 2, (4, 5), metric="full", border=1)], (1, 4, 5)),
    "prescribed": (
        lambda: moved(wp.ConvLBEN(1, 2, (5, 6), gamma=2.0, out_features=3, pool=2, stride=2, border=1, metric="full")),
        (1, 5, 6),
    ),
    "prescribed tanh": (
        lambda: moved(wp.ConvLBEN(2, 3, (4, 4), gamma=3.0, out_features=2, activation="tanh")),
        (2, 4, 4),
    ),
    "channelwise": headed(lambda: [wp.ConvNEMON(2, 3, (5, 4), mu=0.5, stride=2)], (2, 5, 4)),
    "channelwise wide": headed(lambda: [wp.ConvNEMON(1, 2, (4, 3), taps=5, activation="softplus")], (1, 4, 3)),
    "positive": headed(positive(1, 2, (5, 4), batch_norm=True, stride=2, padding=0), (1, 5, 4)),
    "positive sigmoid": headed(positive(2, 2, (4, 4), activation="sigmoid"), (2, 4, 4)),
    "two equilibria": headed(lambda: [wp.ConvNEMON(1, 2, (4, 4)), wp.ConvMonDEQ(2, 2, (4, 4))], (1, 4, 4)),
    "branches of images": (Branched, (1, 4, 3)),
}
BY_METRIC = (
    "circular",
    "circular tanh",
    "bordered",
    "kept zero",
    "one row",
    "normalised",
    "scaled",
    "prescribed",
    "prescribed tanh",
    "two equilibria",
)


@functools.cache
def original(name, folder):
    torch.manual_seed(0)
    model, shape = MODELS[name]
    place = folder / f"images-{name}"
    place.mkdir()
    module = model()
    if name == "normalised":
        module = nn.Sequential(wp.Normalize((0.1, 0.2), (0.3, 0.5)), module)
    return place, written(module, place, shape)


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


@pytest.mark.parametrize("name", MODELS)
def test_honest_files_are_accepted_with_constants_that_hold(name, honest):
    folder, certificate = honest(name)
    accepted(folder)
    claim = claim_of(folder)
    assert ("metric" in claim["theorems"]) == (name in BY_METRIC)
    assert claim["lipschitz"] <= certificate.lipschitz * (1.0 + 1e-6)
    whole, pairs = slopes(certificate.network, MODELS[name][1], "2")
    assert whole <= claim["lipschitz"] and (pairs <= np.array(claim["pairs"]) + 1e-12).all()
    assert np.max(claim["pairs"]) <= 2.0**0.5 * claim["lipschitz"] * (1.0 + 1e-8)
    if certificate.pairs is not None:
        assert (np.array(claim["pairs"]) <= certificate.pairs.numpy() * (1.0 + 1e-6)).all()
    forge(folder, lambda claim: claim.update(lipschitz=claim["lipschitz"] * (1.0 - 1e-6)))
    refused(folder, "is claimed")


@pytest.mark.parametrize("norm", ["inf", "1"])
def test_other_norms_are_refused_by_name(norm, honest, tmp_path):
    _, certificate = honest("channelwise")
    with pytest.raises(CertificateError, match="ConvNEMON"):
        wp.certify(certificate.network, norm=norm)


def one_more(array):
    """An entry of an array moved to the next number."""
    array[0, 1] = np.nextafter(array[0, 1], 9.0)
    return array


def swapped(array):
    """The first two rows of an array in the place of each other."""
    array[[0, 1]] = array[[1, 0]]
    return array


def one_larger(array):
    """The first entry made larger."""
    array.reshape(-1)[0] *= 1.5
    return array


def one_negative(array):
    """The first entry with its sign changed."""
    array.reshape(-1)[0] *= -1.0
    return array


SENSITIVE = [
    (name, "sensitivity", times(0.5), "sensitivity")
    for name in MODELS
    if name not in ("two equilibria", "branches of images")  # which have two of them
]
FORGERIES = [
    *SENSITIVE,
    ("circular", "sensitivity", times(1.0 - 1e-8), "sensitivity"),
    ("circular", "Circulated_relu_2.transfer", set_to(2.0), "sensitivity"),
    ("circular", "mask", set_to(0.5), "options"),
    ("circular", "drive", times(-1.0), "options"),
    ("circular tanh", "drive", set_to(0.5), "options"),
    ("circular", "rows", one_more, "transform"),
    ("circular", "columns", swapped, "transform"),
    ("circular", "Convolution_1.index", swapped, "windows"),
    ("circular", "Convolution_1.weight", times(1.5), "metric"),
    ("scaled", "ScaledEquilibrium_relu_3.scale", times(1.0 / 3.0), "sensitivity"),
    ("scaled", "ScaledEquilibrium_relu_3.scale", times(-1.0), "options"),
    ("scaled", "Convolution_1.index", swapped, "windows"),
    ("scaled", "ScaledEquilibrium_relu_3.transfer", times(0.5), "sensitivity"),
    ("prescribed", "Linear_6.weight", times(1.5), "metric"),
    ("prescribed", "Linear_6.weight", one_larger, "metric"),
    ("prescribed", "Convolution_1.weight", times(1.5), "metric"),
    ("prescribed", "Affine_2.scale", one_negative, "options"),
    ("prescribed", "ScaledEquilibrium_relu_3.factor", times(0.5), "metric"),
    ("channelwise", "kernel", times(1.5), "sensitivity"),
    ("channelwise", "ConvolvedEquilibrium_relu_2.index", swapped, "windows"),
    ("channelwise", "start", times(1.5), ""),
    ("positive", "kernel", times(1.5), "sensitivity"),
    ("positive", "kernel", one_negative, "equilibrium"),
    ("positive", "PositiveConvolvedEquilibrium_tanh_4.index", swapped, "windows"),
    ("positive", "lowest", times(3.0), "floor"),
    ("positive", "damping", times(3.0), "damping"),  # may end at a negative solution, where σ is odd
    ("positive", "damping", times(-1.0), "damping"),
    ("positive", "damping", times(0.0), "damping"),
    ("positive", "PositivePart_3.floor", times(0.5), "floor"),
]


@pytest.mark.parametrize(("name", "words", "change", "reason"), FORGERIES)
def test_forged_numbers_are_refused(name, words, change, reason, honest):
    folder, _ = honest(name)

    def forged(model):
        words_of = [tensor.name for tensor in model.graph.initializer]
        known = [
            own for own in words_of if own.endswith(words.replace("Circulated_relu", "CirculatedEquilibrium_relu"))
        ]
        changed(next(tensor for tensor in model.graph.initializer if tensor.name == known[0]), change)

    if words == "start":
        forge(folder, evidence=lambda tensors: tensors.update({"2/start": tensors["2/start"] * 1.5}))
    else:
        forge(folder, model=forged)
    refused(folder, reason)


@pytest.mark.parametrize(("name", "words"), [("circular", "reflect"), ("channelwise", "damping"), ("scaled", "into")])
def test_numbers_of_the_iteration_need_not_be_believed(name, words, honest):
    folder, certificate = honest(name)
    forge(folder, model=lambda model: changed(stored(model, words), times(0.7)))
    assert is_accepted(folder)
    x = torch.randn(50, *MODELS[name][1])
    logits, bound = onnxruntime.InferenceSession(folder / "m.onnx").run(None, {"x": x.numpy()})
    away = np.linalg.norm(logits - certificate.network.exact(x.double()).numpy(), axis=1)
    good = np.isfinite(bound)
    assert (away <= bound + 1e-9)[good].all()


def test_pixels_of_a_border_that_are_not_kept_zero_count(honest):
    folder, _ = honest("kept zero")

    def opened(array):
        array[0, 0, 0] = 1.0
        return array

    forge(folder, model=lambda model: changed(stored(model, "mask"), opened))
    refused(folder, "metric")  # what drives a pixel of the border is no part of a circular convolution


def test_activations_that_are_no_projections_need_steps_of_one(honest):
    folder, _ = honest("bordered")
    before = claim_of(folder)["lipschitz"]
    forge(folder, model=lambda model: changed(stored(model, "drive"), times(0.5)))
    assert is_accepted(folder) and claim_of(folder)["lipschitz"] == before


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 8, 12, 31])
def test_waves_are_exactly_rounded(count):
    cosines, sines = roots_of_unity(count)
    assert waves(count).real.tolist() == list(cosines) and waves(count).imag.tolist() == list(sines)


def norm_of_windows(index, kernel, pixels):
    """The norm of a convolution, by the matrix that its windows make."""
    whole = np.zeros((len(kernel), len(index), kernel.shape[1], pixels + 1))
    for window, seen in enumerate(index):
        for place, taps in zip(seen, kernel.reshape(*kernel.shape[:2], -1).transpose(2, 0, 1), strict=True):
            whole[:, window, :, place] += taps
    return np.linalg.norm(whole[..., :pixels].reshape(len(kernel) * len(index), -1), 2)


@pytest.mark.parametrize("trial", range(40))
def test_norms_of_convolutions_are_above_those_of_their_matrices(trial):
    rng = np.random.default_rng(trial)
    (height, width), taps = (int(extent) for extent in rng.integers(3, 9, 2)), tuple(rng.choice([1, 2, 3, 5], 2))
    stride, padding = (tuple(int(part) for part in rng.integers(low, 3, 2)) for low in (1, 0))
    if height + 2 * padding[0] < taps[0] or width + 2 * padding[1] < taps[1]:
        return
    kernel = rng.standard_normal((2, 3, *taps))
    index, outputs = patches((height, width), taps, stride=stride, padding=padding)
    found = correlation.norm(kernel, index.numpy(), (height, width), outputs)
    assert found >= norm_of_windows(index.numpy(), kernel, height * width)
    if padding[0] < taps[0] and padding[1] < taps[1]:
        assert found < np.abs(kernel).sum()


@pytest.mark.parametrize(("stride", "border"), [(1, 0), (2, 0), (2, 1), (3, 1)])
def test_circular_windows_are_known_by_their_places(stride, border):
    rng, image = np.random.default_rng(0), (5, 7)
    outputs = tuple(-(-extent // stride) + 2 * border for extent in image)
    kernel, start = rng.standard_normal((2, 2, 3, 3)), stride * border
    rest = [stride * outputs[axis] - image[axis] - start for axis in (0, 1)]
    index = circular_patches(image, outputs, torch.from_numpy(kernel), (start, rest[1], start, rest[0])).numpy()
    found = correlation.circular(index, image, (3, 3), np.ones(outputs, bool), (correlation.same,))
    assert found == (outputs, (stride, stride))
    value = norm_of_gram(*gram(kernel, outputs, (stride, stride)), 0)
    exact = norm_of_windows(index, kernel, image[0] * image[1])
    assert value * (1.0 + 1e-9) >= exact and (border or stride > 1 or value <= exact * (1.0 + 1e-9))
    index[0, 0] = index.min() if index[0, 0] != index.min() else index.min() + 1
    assert correlation.circular(index, image, (3, 3), np.ones(outputs, bool), (correlation.same,)) is None


@pytest.mark.parametrize("name", ["circular", "scaled", "bordered"])
def test_stored_frequencies_are_those_of_the_operator(name, honest):
    folder, certificate = honest(name)
    nodes = read(folder / "m.onnx", claim_of(folder)["model_sha256"])
    node = next(node for node in nodes if node.kind in ("CirculatedEquilibrium", "ScaledEquilibrium"))
    block = next(block for block in certificate.network.blocks if block.is_implicit)
    operator = block.module.operator()
    displacement = np.eye(node.size) - operator.dense().double().numpy()
    scale = np.broadcast_to(node.numbers.get("scale", 1.0), node.shape).reshape(-1, 1)
    wanted = np.linalg.eigvalsh((displacement / scale) + (displacement / scale).T)
    core, _ = convolution(node)
    found = np.linalg.eigvalsh(core + core.conj().swapaxes(2, 3))
    assert found.min() == pytest.approx(wanted.min(), rel=1e-5) and found.max() == pytest.approx(wanted.max(), rel=1e-5)
