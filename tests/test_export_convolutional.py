"""Deployed files of networks on images: onnxruntime against exact solves, for what the files say of their own errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.deployment import export
from wellposed.deployment.export import float32_network
from wellposed.errors import CertificateError
from wellposed.network import Network
from wellposed.numerics.roots_of_unity import roots_of_unity

mpmath = pytest.importorskip("mpmath")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32

ORDINARY = 1e-3  # a bound that no ordinary network exceeds


def session(path: Path) -> onnxruntime.InferenceSession:
    """A file as it runs on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def behind(layer: nn.Module, shape: tuple[int, ...], classes: int = 3) -> nn.Module:
    """A layer, and a head that reads all of its value."""
    with torch.no_grad():
        features = layer(torch.zeros(1, *shape))[0].numel()
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(features, classes)).eval()


def require_bounded(model: nn.Module, shape: tuple[int, ...], path: Path, largest: float = ORDINARY) -> Network:
    """Refuse a file whose errors exceed its bounds, whose bounds are large, or whose samples depend on their batch."""
    network = export(model.eval(), path, tolerance=largest, input_shape=shape)
    run = session(path)
    torch.manual_seed(1)
    x = torch.randn(300, *shape)
    logits, bound = (torch.from_numpy(found).double() for found in run.run(None, {"x": x.numpy()}))
    exact = network.exact.bounded(x.double())
    error = (logits - exact.logits).flatten(1).norm(dim=1)
    assert bool((error <= bound + exact.error).all())
    assert bool((bound <= largest).all())
    for size in (1, 7, 128):
        part = x[:size].numpy()
        again, own = run.run(None, {"x": part})
        apart = np.abs(again - logits[:size].numpy()).reshape(size, -1).max(1)
        assert (apart <= own + bound[:size].numpy()).all()
    return network


def moved(layer: nn.Module, scale: float = 0.3) -> nn.Module:
    """A layer with other parameters than it begins with, biases above all."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layer.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * scale * (parameter.square().mean().sqrt() + 0.1))
    return layer


class TestZeroPadded:
    @pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "leaky_relu"])
    def test_channelwise_monotone_layers(self, activation: str, tmp_path: Path) -> None:
        layer = moved(wp.ConvNEMON(2, 4, (9, 6), mu=0.5, stride=2, activation=activation))
        require_bounded(behind(layer, (2, 9, 6)), (2, 9, 6), tmp_path / "m.onnx")

    @pytest.mark.parametrize(("taps", "input_taps", "image"), [(5, None, (7, 8)), (1, 3, (4, 4)), (3, 1, (3, 10))])
    def test_taps_and_images(self, taps: int, input_taps: int | None, image: tuple[int, int], tmp_path: Path) -> None:
        layer = moved(wp.ConvNEMON(1, 3, image, taps=taps, input_taps=input_taps))
        require_bounded(behind(layer, (1, *image)), (1, *image), tmp_path / "m.onnx")

    @pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
    @pytest.mark.parametrize("batch_norm", [False, True])
    def test_positive_layers(self, activation: str, batch_norm: bool, tmp_path: Path) -> None:
        layer = wp.ConvPcDEQ(2, 4, (9, 8), activation=activation, stride=2, padding=0, batch_norm=batch_norm)
        layer.train()(torch.randn(32, 2, 9, 8))
        require_bounded(behind(layer.eval(), (2, 9, 8)), (2, 9, 8), tmp_path / "m.onnx")


class TestCircular:
    @pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "hardtanh"])
    @pytest.mark.parametrize("border", [0, 1])
    def test_monotone_layers(self, activation: str, border: int, tmp_path: Path) -> None:
        layer = moved(wp.ConvMonDEQ(2, 4, (9, 6), m=0.5, stride=2, border=border, activation=activation))
        require_bounded(behind(layer, (2, 9, 6)), (2, 9, 6), tmp_path / "m.onnx")

    @pytest.mark.parametrize("image", [(7, 8), (4, 4), (3, 10), (5, 7), (1, 6), (6, 1), (2, 2)])
    def test_even_and_odd_images(self, image: tuple[int, int], tmp_path: Path) -> None:
        layer = moved(wp.ConvMonDEQ(1, 3, image, taps=min(3, *image) | 1 if min(image) > 2 else 1))
        require_bounded(behind(layer, (1, *image)), (1, *image), tmp_path / "m.onnx")


class TestBounded:
    @pytest.mark.parametrize("metric", ["full", "channels", "image", "identity"])
    @pytest.mark.parametrize("border", [0, 1])
    def test_prescribed_bounds(self, metric: str, border: int, tmp_path: Path) -> None:
        layer = moved(
            wp.ConvLBEN(2, 4, (9, 8), gamma=3.0, out_features=5, pool=2, stride=2, metric=metric, border=border)
        )
        require_bounded(layer, (2, 9, 8), tmp_path / "m.onnx")

    @pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
    def test_states(self, activation: str, tmp_path: Path) -> None:
        layer = moved(wp.ConvLBEN(1, 4, (7, 10), activation=activation, taps=5, input_taps=3, stride=3))
        require_bounded(behind(layer, (1, 7, 10)), (1, 7, 10), tmp_path / "m.onnx")

    def test_smooth_activations_in_a_metric_of_channels(self, tmp_path: Path) -> None:
        layer = moved(wp.ConvLBEN(1, 4, (6, 6), gamma=2.0, out_features=3, activation="tanh", pool=4))
        require_bounded(layer, (1, 6, 6), tmp_path / "m.onnx")

    def test_what_needs_other_resolvents_is_refused(self, tmp_path: Path) -> None:
        layer = wp.ConvLBEN(1, 4, (6, 6), gamma=2.0, out_features=3, activation="tanh", metric="full")
        with pytest.raises(CertificateError, match=r"tanh.*changes from pixel to pixel"):
            export(layer, tmp_path / "m.onnx")


class TestOrthogonal:
    @pytest.mark.parametrize(("image", "stride"), [((7, 8), 1), ((7, 8), 2), ((6, 6), 3), ((5, 4), 3), ((1, 5), 2)])
    def test_convolutions(self, image: tuple[int, int], stride: int, tmp_path: Path) -> None:
        first = moved(wp.OrthogonalConv2d(2, 4, image, stride=stride, taps=1))
        model = nn.Sequential(first, wp.GroupSort(dim=-3), moved(wp.OrthogonalConv2d(4, 3, first.out_image, taps=1)))
        require_bounded(behind(model, (2, *image)), (2, *image), tmp_path / "m.onnx")

    @pytest.mark.parametrize("coupling", ["convex", "additive", "joint", "residual"])
    @pytest.mark.parametrize("depth", [1, 2])
    def test_cells_on_vectors(self, coupling: str, depth: int, tmp_path: Path) -> None:
        if coupling == "joint" and depth > 1:
            pytest.skip("joint cells have one map")
        layer = moved(wp.OrthogonalDEQ(9, 12, coupling=coupling, depth=depth))
        require_bounded(behind(layer, (9,)), (9,), tmp_path / "m.onnx")

    @pytest.mark.parametrize("coupling", ["convex", "residual"])
    @pytest.mark.parametrize("encode", [False, True])
    def test_cells_on_images(self, coupling: str, encode: bool, tmp_path: Path) -> None:
        layer = wp.ConvOrthogonalDEQ(2, 6 if encode else 2, (7, 8), coupling=coupling, encode=encode, stride=1 + encode)
        require_bounded(behind(moved(layer), (2, 7, 8)), (2, 7, 8), tmp_path / "m.onnx")

    @pytest.mark.parametrize("options", [{"group": 4}, {"activation": "householder"}])
    def test_other_activations_are_refused(self, options: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(CertificateError, match="groups of other than two, or for learned reflections"):
            export(wp.OrthogonalDEQ(9, 12, **options), tmp_path / "m.onnx")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 8, 12, 31, 56])
def test_roots_of_unity_are_exactly_rounded(count: int) -> None:
    cosines, sines = roots_of_unity(count)
    with mpmath.workprec(400):
        for place, (cosine, sine) in enumerate(zip(cosines, sines, strict=True)):
            angle = 2 * mpmath.pi * place / count
            for found, exact in ((cosine, mpmath.cos(angle)), (sine, mpmath.sin(angle))):
                assert found == (float(exact) if abs(exact) > 1e-60 else 0.0)


ILL_CONDITIONED = {
    "channelwise": lambda: moved(wp.ConvNEMON(1, 8, (14, 14), mu=0.97)),
    "circular": lambda: moved(wp.ConvMonDEQ(1, 8, (14, 15), m=0.03)),
    "bordered": lambda: moved(wp.ConvMonDEQ(1, 8, (13, 14), m=0.03, border=1)),
    "bounded": lambda: moved(wp.ConvLBEN(1, 8, (14, 14), gamma=20.0, out_features=4, pool=2, epsilon=0.02)),
    "cell": lambda: moved(wp.ConvOrthogonalDEQ(1, 8, (14, 14), coupling="convex", omega=0.05)),
    "cell on vectors": lambda: nn.Sequential(nn.Flatten(), moved(wp.OrthogonalDEQ(196, 16, omega=0.05))),
}


@pytest.mark.parametrize("kind", ILL_CONDITIONED)
def test_iterations_end_in_float64_where_the_tolerance_needs_it(kind: str, tmp_path: Path) -> None:
    layer = ILL_CONDITIONED[kind]()
    shape = (1, 14, 15) if kind == "circular" else (1, 13, 14) if kind == "bordered" else (1, 14, 14)
    require_bounded(behind(layer, shape), shape, tmp_path / "m.onnx", largest=3e-5)


FIXED = {
    "channelwise": lambda: wp.ConvNEMON(1, 3, (5, 6)),
    "positive": lambda: wp.ConvPcDEQ(1, 3, (5, 6)),
    "circular": lambda: wp.ConvMonDEQ(1, 3, (5, 6), border=1),
    "bounded": lambda: wp.ConvLBEN(1, 3, (5, 6), gamma=2.0, out_features=4, pool=2, stride=2),
    "orthogonal": lambda: wp.OrthogonalConv2d(1, 4, (5, 6), stride=2),
    "cell": lambda: wp.ConvOrthogonalDEQ(1, 4, (5, 6)),
    "deep cell": lambda: nn.Sequential(nn.Flatten(), wp.OrthogonalDEQ(30, 8, depth=2)),
}


@pytest.mark.parametrize("kind", FIXED)
def test_fixed_numbers_of_iterations(kind: str) -> None:
    model = behind(moved(FIXED[kind]()), (1, 5, 6))
    module = wp.deployable(model, steps=80, input_shape=(1, 5, 6))
    x = torch.randn(9, 1, 5, 6)
    logits, bound = module(x)
    exact = float32_network(model, (1, 5, 6)).exact.bounded(x.double())
    error = (logits.double() - exact.logits).norm(dim=1)
    assert bool((error <= bound + exact.error).all())
    assert bool((bound <= ORDINARY).all())


def test_samples_are_images(tmp_path: Path) -> None:
    """A bound of a batch is one of every sample, so that a sample alone has it too."""
    model = behind(wp.ConvNEMON(1, 2, (4, 4)), (1, 4, 4))
    export(model, tmp_path / "m.onnx", input_shape=(1, 4, 4))
    x: Tensor = torch.randn(3, 1, 4, 4)
    logits, bound = session(tmp_path / "m.onnx").run(None, {"x": x.numpy()})
    assert logits.shape == (3, 3) and bound.shape == (3,)
