"""Blocks that the independent checker follows in their own ways: positive, orthogonal, convolutional, and by components."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from wellposed.checker import Checker, Refuted
from wellposed.checker.convolution import gram, transfer, zero_padded_norm_at_most

import wellposed as wp
from harness.certificate_file import forge, loaded_lines, refused, run_alone, scaled, written
from wellposed import testing
from wellposed.activations import concave_names
from wellposed.numerics.convolution_norms import convolution_norm
from wellposed.operators.fourier import transfer_function


def normalised(*blocks):
    return nn.Sequential(wp.Normalize((0.1,), (0.3,)), *blocks)


def flat(*blocks):
    return normalised(nn.Flatten(), *blocks)


def cell(coupling, **options):
    depth = 1 if coupling == "joint" else 2
    return flat(wp.OrthogonalDEQ(16, 8, coupling=coupling, depth=depth, **options), nn.Linear(8, 3))


def circular(stride, border, *pool, **options):
    side = (8 // stride + 2 * border) // (2 if pool else 1)
    layer = wp.ConvMonDEQ(1, 3, (8, 8), stride=stride, border=border, m=0.5, **options)
    return normalised(layer, *pool, nn.Flatten(), nn.Linear(3 * side**2, 3))


SMALL, IMAGE = (1, 4, 4), (1, 8, 8)
MODELS = {
    **{
        f"positive-{name}": lambda name=name: flat(wp.PcDEQ(16, 8, activation=name), nn.Linear(8, 3)) for name in concave_names()
    },
    **{
        f"positive-{way}-batch-norm": lambda way=way: flat(
            wp.PcDEQ(16, 8, parametrisation=way, batch_norm=True), nn.Linear(8, 3)
        )
        for way in ("square", "softplus", "projection")
    },
    "positive-sharp": lambda: flat(wp.PcDEQ(16, 8, floor=1e-5, sharpness=5.0), nn.Linear(8, 3)),
    "positive-float64": lambda: flat(wp.PcDEQ(16, 8), nn.Linear(8, 3)).double(),
    "positive-behind-a-map": lambda: flat(
        wp.OrthogonalLinear(16, 9), nn.ReLU(), wp.PcDEQ(9, 8), wp.OrthogonalLinear(8, 3)
    ),
    **{f"cell-{coupling}": lambda coupling=coupling: cell(coupling) for coupling in ("convex", "additive", "joint", "residual")},
    **{f"cell-{way}": lambda way=way: cell("convex", parametrisation=way) for way in ("exponential", "bjorck")},
    **{f"reflections-{way}": lambda way=way: cell(way, activation="householder") for way in ("convex", "joint", "residual")},
    "orthogonal-head": lambda: flat(wp.MonDEQ(16, 8), wp.OrthogonalLinear(8, 3)),
    "layers": lambda: flat(wp.NEMON(16, 9), nn.Tanh(), wp.NEMON(9, 7), nn.Linear(7, 3)),
    "explicit": lambda: flat(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 3)),
    "explicit-sandwich": lambda: flat(wp.Sandwich(16, 9), wp.Sandwich(9, 8), wp.OrthogonalLinear(8, 3)),
    "explicit-sll": lambda: flat(wp.OrthogonalLinear(16, 9), wp.SLL(9), wp.SLL(9, 12), nn.Linear(9, 3)),
    "explicit-residual": lambda: flat(wp.Residual(16, 5), nn.Linear(16, 3)),
}  # fmt: skip
IMAGES = {
    "positive-images": lambda: normalised(wp.ConvPcDEQ(1, 3, (8, 8)), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 3)),
    "positive-images-batch-norm": lambda: normalised(
        wp.ConvPcDEQ(1, 3, (8, 8), stride=2, batch_norm=True, parametrisation="projection"), nn.Flatten(), nn.Linear(48, 3)
    ),
    "cell-images-residual": lambda: normalised(
        wp.ConvOrthogonalDEQ(1, 4, (8, 8), stride=2), wp.UnitPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ),
    "cell-images-convex": lambda: normalised(
        wp.OrthogonalConv2d(1, 4, (8, 8), stride=2), nn.ReLU(),
        wp.ConvOrthogonalDEQ(4, 4, (4, 4), coupling="convex", encode=False), nn.Flatten(), wp.OrthogonalLinear(64, 3),
    ),
    "explicit-maximum": lambda: normalised(wp.ConvMonDEQ(1, 3, (8, 8)), nn.MaxPool2d(3, 1, 1), nn.Flatten(), nn.Linear(192, 3)),
    "explicit-images": lambda: normalised(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), wp.MonDEQ(27, 6), nn.Linear(6, 3)
    ),
    "channels": lambda: normalised(
        wp.ConvNEMON(1, 3, (8, 8), stride=2, activation="tanh"), nn.Flatten(), nn.Linear(48, 3)
    ),
    "scales": lambda: normalised(wp.MultiScaleMonDEQ(1, (3, 2), (8, 8)), nn.Flatten(), nn.Linear(32, 3)),
    "scales-bordered": lambda: normalised(
        wp.MultiScaleMonDEQ(1, (2, 3, 4), (8, 8), border=1, m=0.3), nn.Flatten(), nn.Linear(64, 3)
    ),
    **{
        f"scaled-{metric}": lambda metric=metric: normalised(
            wp.ConvLBEN(1, 3, (8, 8), metric=metric, stride=2), nn.Flatten(), nn.Linear(48, 3)
        )
        for metric in ("identity", "channels", "image", "full")
    },
    "bounded": lambda: normalised(wp.ConvLBEN(1, 3, (8, 8), gamma=2.0, out_features=4, pool=2)),
    "bounded-bordered": lambda: normalised(
        wp.ConvLBEN(1, 3, (8, 8), gamma=0.5, out_features=4, metric="full", stride=2, border=1)
    ),
    "bounded-as-published": lambda: normalised(
        wp.ConvLBEN(1, 3, (8, 8), gamma=0.5, out_features=4, metric="full", input_in_metric=False, border=1, pool=2)
    ),
    "bounded-as-published-strided": lambda: normalised(
        wp.ConvLBEN(1, 3, (8, 8), gamma=2.0, out_features=4, metric="image", input_in_metric=False, stride=2).double()
    ),
    "circular": lambda: circular(1, 0),
    "circular-bordered": lambda: circular(1, 1),
    "circular-strided": lambda: circular(2, 0, activation="tanh"),
    "circular-bordered-strided-pooled": lambda: circular(2, 1, nn.AvgPool2d(2)),
    "circular-pooled": lambda: circular(1, 0, nn.AvgPool2d(2)),
    "circular-float64": lambda: circular(1, 1).double(),
}  # fmt: skip


def trained(name):
    """A model whose parameters have left their starting points."""
    torch.manual_seed(0)
    model = (MODELS | IMAGES)[name]()
    generator = testing.generator(1)
    with torch.no_grad():
        for part in model.parameters():
            part.add_(
                0.05 * testing.randn(part.shape, generator=generator, dtype=part.dtype) * (0.2 + part.abs().mean())
            )
        for part in model.modules():
            if hasattr(part, "free"):
                part.free.add_(0.3 * testing.randn(part.free.shape, generator=generator, dtype=part.free.dtype))
    shape = SMALL if name in MODELS else IMAGE
    if any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in model.modules()):
        model.train()
        with torch.no_grad():
            for _ in range(3):
                model(testing.rand(40, *shape, generator=generator))
    return model.eval(), shape


def lines(folder):
    return Checker(folder / "c.json", folder / "w.safetensors").run()


FORMED = (
    "matrix",
    "driven",
    "transfer",
    "input",
    "tier",
    "into",
    "scale",
    "factor",
    "output",
    "maps",
    "injection",
)  # from weights
CASES = [(name, norm) for name in MODELS | IMAGES for norm in ("2", "inf", "1")]
CASES = [
    (name, norm)
    for name, norm in CASES
    if norm == "2" or (name in MODELS and not {"cell", "reflections", "explicit-"} & {name.split("-")[0], name[:9]})
]


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_what_was_proved_is_accepted_and_little_more(name, norm, tmp_path):
    """In the file constants are those of the certificate but for what the checker's coarser rounding takes."""
    model, shape = trained(name)
    certificate = written(model, tmp_path, shape, norm=norm)
    assert lines(tmp_path)
    file = wp.Certificate.load(tmp_path / "c.json", model)
    assert file.check()
    for claimed, proved in ((file.lipschitz, certificate.lipschitz), (file.pairs, certificate.pairs)):
        if proved is None:
            continue
        ratio = torch.as_tensor(claimed, dtype=torch.float64) / torch.as_tensor(proved, dtype=torch.float64)
        ratio = ratio[torch.isfinite(ratio)]
        assert float(ratio.min()) >= 1.0 and float(ratio.max()) <= 1.0 + (2e-6 if name.startswith("bounded") else 1e-8)
    # For positive layers the library takes a floor a little lower, and so constants a little larger, than the checker.
    less = 0.9 if name.startswith("positive") else 1.0 - 1e-6
    less = 1.0 - 1e-5 if name.startswith("bounded") else less
    changes = [scaled("lipschitz", factor=less)]
    changes += [] if certificate.pairs is None else [scaled("pairs", factor=less)]
    if norm == "2":
        # The metric proves more of the first of two layers than the library claims of it.
        covered = -1 if certificate.tail is None else certificate.tail.place
        weighty = {place for place, factor in enumerate(certificate.factors) if factor.value != 1.0}
        weighty -= {covered, 2 if name == "layers" else covered}
        changes += [scaled("blocks", place, "value", factor=less) for place in sorted(weighty)]
    if certificate.tail is not None:
        changes += [scaled("joint", "value", factor=1.0 - 1e-5), scaled("joint", "pairs", factor=1.0 - 1e-5)]
    for change in changes:
        forge(tmp_path / "c.json", change)
        refused(tmp_path, "")
        certificate.save(tmp_path / "c.json")


@pytest.mark.parametrize("name", MODELS | IMAGES)
def test_matrices_that_the_weights_do_not_give_are_refused(name, tmp_path):
    model, shape = trained(name)
    certificate = written(model, tmp_path, shape, witnessed=False)
    stored = safetensors.torch.load_file(tmp_path / "c.safetensors")
    formed = [key for key in stored if key.split("/")[1].split(".")[0] in FORMED]
    assert formed or name.startswith("explicit")
    generator = np.random.default_rng(0)
    for key in formed:

        def change(tensors, key=key):
            flat = tensors[key] = tensors[key].copy()
            flat.reshape(-1)[generator.integers(flat.size)] += np.asarray(1e-2, flat.dtype)

        forgeries = [change, lambda t, key=key: t.pop(key)]
        if len(stored[key]) > 1:
            forgeries.append(lambda t, key=key: t.update({key: t[key][::-1].copy()}))
        for forgery in forgeries:
            forge(tmp_path / "c.json", evidence=forgery)
            with pytest.raises(Refuted):
                lines(tmp_path)
            certificate.save(tmp_path / "c.json")
    lines(tmp_path)


@pytest.mark.parametrize("name", ["positive-tanh", "positive-images"])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"floor": 1.01 * t["floor"]}),
        lambda t: t.update({"floor": -t["floor"]}),
        lambda t: t.update({"floor": np.inf + t["floor"]}),
        lambda t: t.update({"perron": 0.0 * t["perron"]}),
        lambda t: t.update({"perron": -t["perron"]}),
        lambda t: t.update({"reach": 0.999 * t["reach"]}),
        lambda t: t.update({"back": 0.999 * t["back"]}),
        lambda t: t.update({"start": 0.98 * t["start"]}),
        lambda t: t.update({"start": 1.001 * t["start"]}),
        lambda t: t.update({"start": -t["start"], "reach": -t["reach"], "back": -t["back"]}),
        lambda t: t.update({"reach": t["reach"][:1], "start": t["start"][:1]}),
        lambda t: t.update({"start": np.ones(1), "reach": np.ones(1), "back": np.ones(1)}),
        lambda t: t.pop("start"),
    ],
)
def test_false_vectors_of_positive_layers_are_refused(name, change, tmp_path):
    model, shape = trained(name)
    written(model, tmp_path, shape, witnessed=False)
    prefix = "2/" if name in MODELS else "1/"

    def forgery(tensors):
        own = {key.removeprefix(prefix): part for key, part in tensors.items() if key.startswith(prefix)}
        change(own)
        for key in [key for key in tensors if key.startswith(prefix)]:
            del tensors[key]
        tensors.update({prefix + key: np.ascontiguousarray(part) for key, part in own.items()})

    forge(tmp_path / "c.json", evidence=forgery)
    with pytest.raises(Refuted):
        lines(tmp_path)


@pytest.mark.parametrize("norm", ["inf", "1"])
@pytest.mark.parametrize("name", ["layers", "positive-tanh"])
@pytest.mark.parametrize(
    "change",
    [
        lambda part, probe: (0.999 * part, probe),
        lambda part, probe: (-part, probe),
        lambda part, probe: (part, -probe),
        lambda part, probe: (part, 0.0 * probe),
        lambda part, probe: (part[..., :1], probe),
        lambda part, probe: (part[..., ::-1], probe),
        lambda part, probe: (part[:1], probe),
    ],
)
def test_false_sensitivities_are_refused(name, norm, change, tmp_path):
    model, shape = trained(name)
    written(model, tmp_path, shape, witnessed=False, norm=norm)

    def forgery(tensors):
        moved, probe = change(tensors["2/moved"], tensors["2/m_matrix"])
        tensors.update({"2/moved": np.ascontiguousarray(moved), "2/m_matrix": np.ascontiguousarray(probe)})

    forge(tmp_path / "c.json", lambda content: content.update(joint=None), forgery)
    with pytest.raises(Refuted):
        lines(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("positive-tanh", lambda b: b.update(activation="relu"), "activation"),
        ("positive-tanh", lambda b: b.update(batch_norm=True), "accounting"),
        ("positive-tanh", lambda b: b.update(parametrisation="projection"), "matrix"),
        ("positive-square-batch-norm", lambda b: b.update(batch_norm=False), "accounting"),
        ("positive-square-batch-norm", lambda b: b.update(epsilon=float("inf")), ""),
        ("cell-residual", lambda b: b.update(coupling="convex"), "accounting"),
        ("cell-joint", lambda b: b.update(coupling="convex"), "accounting"),
        ("cell-convex", lambda b: b.update(coupling="other"), "coupling"),
        ("cell-convex", lambda b: b.update(depth=1), "accounting"),
        ("cell-convex", lambda b: b.update(excess=-1e-3), "not proved"),
        ("cell-convex", lambda b: b.update(parametrisation="bjorck"), "matrix"),
        ("cell-convex", lambda b: b.update(kind="orthogonal", value=1.01), "accounting"),
    ],
)
def test_blocks_that_say_other_things_of_themselves_are_refused(name, change, words, tmp_path):
    model, shape = trained(name)
    written(model, tmp_path, shape, witnessed=False)
    forge(tmp_path / "c.json", lambda content: change(content["blocks"][2]))
    refused(tmp_path, words)


@pytest.mark.parametrize("change", [lambda t: t.update({"1/gram": 0.999 * t["1/gram"]}), lambda t: t.pop("1/gram")])
def test_false_bounds_of_input_maps_are_refused(change, tmp_path):
    model, shape = trained("circular")
    written(model, tmp_path, shape, witnessed=False)
    forge(tmp_path / "c.json", evidence=change)
    refused(tmp_path, "")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["blocks"][1].update(stride=2),
        lambda c: c["blocks"][1].update(image=[4, 16]),
        lambda c: c["blocks"][1].update(image=[0, 8]),
        lambda c: c["blocks"][2].update(window=[3, 3]),
        lambda c: c["blocks"][2].update(window=[2, 1]),
        lambda c: c["blocks"][2].update(window=[0, 0]),
        lambda c: c["blocks"].pop(3),
    ],
)
def test_other_images_are_refused(change, tmp_path):
    model, shape = trained("circular-pooled")
    written(model, tmp_path, shape, witnessed=False)
    forge(tmp_path / "c.json", change)
    with pytest.raises(Refuted):
        lines(tmp_path)


@pytest.mark.parametrize("method", ["product", "metric"])
@pytest.mark.parametrize(
    "name", [name for name in IMAGES if name.startswith(("circular", "scaled-channels", "scaled-identity"))]
)
def test_both_ways_of_circular_layers(name, method, tmp_path):
    model, shape = trained(name)
    written(model, tmp_path, shape, witnessed=False, method=method)
    assert any("joint" in line for line in lines(tmp_path)) == (method == "metric")


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_frequencies_are_those_of_the_library(stride):
    torch.manual_seed(0)
    kernel = testing.randn(3, 2, 3, 5, dtype=torch.float64)
    grid = (7, 8)
    own = transfer(kernel.numpy(), grid, stride)
    expected = transfer_function(kernel, *grid, (stride, stride)).numpy()
    assert own.shape == expected.shape
    # Phases may come in another order: what counts is the matrix times its adjoint.
    squares, error = gram(kernel.numpy(), grid, stride)
    assert float(np.abs(squares - expected @ expected.conj().swapaxes(-1, -2)).max()) < 1e-12 + error
    norm = convolution_norm(kernel, (9, 10), stride)
    assert zero_padded_norm_at_most(kernel.numpy(), (9, 10), stride, norm * (1 + 1e-9))
    assert not zero_padded_norm_at_most(kernel.numpy(), (9, 10), stride, norm * (1 - 1e-6))
    assert zero_padded_norm_at_most(0.0 * kernel.numpy(), (9, 10), stride, 0.0)


@pytest.mark.parametrize(("name", "place", "number"), [
    ("explicit-sll", 3, 0), ("explicit-sll", 3, 2), ("explicit-residual", 2, 0), ("explicit-residual", 2, 1),
])  # fmt: skip
def test_false_norms_of_explicit_layers_are_refused(name, place, number, tmp_path):
    model, shape = trained(name)
    written(model, tmp_path, shape)

    def change(content):
        content["blocks"][place]["norms"][number] *= 1.0 - 1e-6

    forge(tmp_path / "c.json", change)
    refused(tmp_path, f"block: {place}: the constant")


@pytest.mark.parametrize(("change", "words"), [
    ({"around": -1.0}, "block: 1: the constant"), ({"around": float("nan")}, "number"), ({"in_metric": True}, "matrix"),
    ({"in_metric": None}, "block: 1: unknown activation"), ({"multiplier": -1.0}, "block: 1: the constant"),
])  # fmt: skip
def test_false_bounds_in_a_metric_by_pixel_are_refused(change, words, tmp_path):
    model, shape = trained("bounded-as-published")
    written(model, tmp_path, shape)
    forge(tmp_path / "c.json", lambda content: content["blocks"][1].update(change))
    refused(tmp_path, words)


def test_other_classes_and_strides_are_refused(tmp_path):
    model, shape = trained("explicit-maximum")
    written(model, tmp_path, shape)
    forge(tmp_path / "c.json", lambda content: content["blocks"][2].update(stride=[2, 2]))
    assert lines(tmp_path)  # a larger stride needs a smaller constant; the claim is about the chain that is named
    forge(tmp_path / "c.json", lambda content: content["blocks"][2].update(stride=[1, 1], window=[5, 5]))
    refused(tmp_path, "block: 2: the constant")
    model, shape = trained("explicit-sll")
    written(model, tmp_path, shape)
    forge(tmp_path / "c.json", lambda content: content["blocks"][3].update({"class": "Sandwich"}))
    refused(tmp_path, "accounting: 3: other tensors")


EVERY = (
    "positive-tanh", "positive-images-batch-norm", "cell-residual", "cell-bjorck", "cell-images-residual",
    "circular-pooled", "channels", "scales", "scaled-full", "scaled-channels", "bounded", "explicit-images",
    "explicit-sandwich",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "2") for name in EVERY), ("layers", "inf"), ("positive-tanh", "1")]
)
def test_every_kind_is_checked_by_little_code(name, norm, tmp_path):
    model, shape = trained(name)
    written(model, tmp_path, shape, witnessed=False, norm=norm)
    done = run_alone(tmp_path)
    assert done.returncode == 0 and "foreign []" in done.stdout, done.stderr
    assert loaded_lines(done) < 620
