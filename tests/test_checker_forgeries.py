"""Forged certificates that an earlier checker believed: each shows a false constant, so that accepting one is a wrong result."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from wellposed.checker import Checker, Refuted
from wellposed.checker.cayley import cayley

import wellposed as wp
from harness.certificate_file import forge, refused, scaled, seal_weights, written
from wellposed import testing
from wellposed.bounds.entrywise import entrywise_bound


def lines(folder):
    return Checker(folder / "c.json", folder / "w.safetensors").run()


def saved(model, folder, **options):
    certificate = written(model, folder, None, witnessed=False, **options)
    lines(folder)
    return certificate


def circular():
    torch.manual_seed(0)
    layer = wp.ConvMonDEQ(1, 3, (8, 8), m=0.5)
    return nn.Sequential(wp.Normalize((0.1,), (0.01,)), layer, nn.Flatten(), nn.Linear(192, 3)).eval()


@pytest.mark.parametrize("norm", ["inf", "1"])
def test_euclidean_proofs_are_not_taken_for_other_norms(norm, tmp_path):
    saved(circular(), tmp_path)

    def change(content):
        content.update(norm=norm, components=False, pairs=None, lower_bound=None)
        content["lipschitz"] = content["joint"]["value"] = 1.5
        content["joint"]["pairs"] = None
        for block in content["blocks"]:
            block["value"] = None

    forge(
        tmp_path / "c.json", change, lambda t: t.update({"joint/multipliers": np.repeat(t["joint/multipliers"], 3, 0)})
    )
    refused(tmp_path, "joint")


@pytest.mark.parametrize("coupling", ["convex", "residual", "additive", "joint"])
@pytest.mark.parametrize("angles", [-20000, -1, 1, True, 0.0, "0"])
def test_numbers_of_angles_are_what_cells_have(coupling, angles, tmp_path):
    torch.manual_seed(0)
    saved(nn.Sequential(wp.OrthogonalDEQ(6, 6, coupling=coupling)), tmp_path)

    def change(content):
        content["blocks"][0].update(angles=angles, excess=0.005, value=0.6)
        content["lipschitz"] = 0.6

    forge(tmp_path / "c.json", change)
    with pytest.raises(Refuted):
        lines(tmp_path)


@pytest.mark.parametrize("change", [{"input_norm": -1e6}, {"monotonicity": -1e6}, {"input_norm": 0.0}, {"border": 2}])
def test_negative_norms_bound_nothing(change, tmp_path):
    torch.manual_seed(0)
    saved(nn.Sequential(wp.ConvLBEN(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 3)), tmp_path, method="product")
    forge(tmp_path / "c.json", lambda content: content["blocks"][0].update(change, value=1e-3))
    with pytest.raises(Refuted):
        lines(tmp_path)


def test_classes_and_kinds_belong_together(tmp_path):
    model = nn.Sequential(*circular(), nn.Linear(3, 3)).eval()
    torch.nn.init.eye_(model[4].weight)
    saved(circular(), tmp_path)
    tensors = {"4.weight": 1000.0 * np.eye(3, dtype=np.float32), "4.bias": np.zeros(3, np.float32)}
    entry = {
        "name": "4", "class": "Identity", "value": 1e3 + 1.0, "reason": "", "kind": "linear",
        "tensors": {"weight": "4.weight", "bias": "4.bias"},
    }  # fmt: skip
    forge(tmp_path / "c.json", lambda content: content["blocks"].append(entry))
    seal_weights(tmp_path, lambda known: known.update(tensors))
    refused(tmp_path, "is not of the kind")


def test_convolutions_of_other_dimensions_are_refused(tmp_path):
    torch.manual_seed(0)
    saved(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), tmp_path)
    for name in ("Conv3d", "ConvTranspose2d"):
        forge(tmp_path / "c.json", lambda content, name=name: content["blocks"][0].update({"class": name}))
        refused(tmp_path, "is not of the kind")
    forge(tmp_path / "c.json", lambda content: content["blocks"][0].update({"class": "Conv2d"}))
    lines(tmp_path)
    seal_weights(tmp_path, lambda t: t.update({"0.weight": t["0.weight"][:, :, None]}))
    refused(tmp_path, "not proved")


VECTORS = ("floor", "perron", "start", "reach", "back")


def positive(images):
    torch.manual_seed(0)
    layer = wp.ConvPcDEQ(1, 3, (8, 8)) if images else wp.PcDEQ(6, 5)
    size = 192 if images else 5
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(size, 2)).eval()


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize(
    "parts", [("floor",), ("perron",), ("start", "reach", "back"), ("floor", "perron", "start", "reach", "back")]
)
def test_vectors_have_the_shape_of_the_state(images, parts, tmp_path):
    saved(positive(images), tmp_path)

    def change(tensors):
        for part in parts:
            known = tensors[f"0/{part}"]
            tensors[f"0/{part}"] = known[:, :1, :1].copy() if images else np.repeat(known[:, None], 5, 1)

    forge(tmp_path / "c.json", evidence=change)
    with pytest.raises(Refuted):
        lines(tmp_path)


def test_vectors_of_another_shape_prove_nothing_by_components(tmp_path):
    torch.manual_seed(0)
    saved(nn.Sequential(wp.PcDEQ(4, 3), nn.Linear(3, 2)), tmp_path, norm="1")
    for part in ("floor", "perron", "m_matrix"):
        forge(
            tmp_path / "c.json", evidence=lambda t, part=part: t.update({f"0/{part}": t[f"0/{part}"][:, None].copy()})
        )
        with pytest.raises(Refuted):
            lines(tmp_path)


def test_vectors_so_small_that_products_vanish_prove_nothing(tmp_path):
    """At the least subnormal numbers sums over W round to zero, and with them all feedback."""
    layer = wp.PcDEQ(1, 40, activation="relu6", parametrisation="projection", dtype=torch.float64)
    with torch.no_grad():
        layer.constraint.V.fill_(0.95 / 40)
        layer.injection.weight.fill_(1.0)
    certificate = saved(nn.Sequential(layer), tmp_path)

    def evidence(tensors):
        for part in ("start", "reach", "back"):
            tensors[f"0/{part}"] = np.full(40, 20 * 5e-324)

    def change(content):
        content["blocks"][0]["value"] = content["lipschitz"] = 0.06 * certificate.lipschitz

    forge(tmp_path / "c.json", change, evidence)
    refused(tmp_path, "not proved")


def test_rounding_leaves_forgers_no_room_where_much_cancels(tmp_path):
    layer = wp.MonDEQ(2, 2, m=0.01, activation="identity")
    with torch.no_grad():
        for part in layer.parameters():
            part.zero_()
        layer.constraint.A[0] = 300.0
        layer.injection.weight.copy_(testing.eye(2))
    written(nn.Sequential(layer), tmp_path, None, witnessed=False, method="product")
    refused(tmp_path, "rounding")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_a_head_cannot_shrink_within_rounding(dtype, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(wp.MonDEQ(6, 5, dtype=dtype), wp.OrthogonalLinear(5, 3, dtype=dtype))
    with torch.no_grad():
        model[1].free.mul_(50.0)
    certificate = written(model, tmp_path, None, witnessed=False)
    lines(tmp_path)
    for factor in (1e-6, 0.99):
        forge(
            tmp_path / "c.json",
            evidence=lambda t, f=factor: t.update({"1/matrix": (f * t["1/matrix"]).astype(t["1/matrix"].dtype)}),
        )
        refused(tmp_path, "matrix")
        certificate.save(tmp_path / "c.json")


def test_base_points_of_exponentials_are_orthogonal_and_have_all_their_rows(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(wp.MonDEQ(6, 5), wp.OrthogonalLinear(5, 3, parametrisation="exponential"))
    certificate = written(model, tmp_path, None, witnessed=False)
    lines(tmp_path)
    forge(
        tmp_path / "c.json",
        lambda content: (
            content.update(pairs=None),
            content["joint"].update(pairs=None),
            content["blocks"][1].update(shapes=[[1, 5]]),
        ),
        lambda t: t.update(
            {"1/matrix": t["1/matrix"][:1].copy(), "joint/multipliers": t["joint/multipliers"][:1].copy()}
        ),
    )
    refused(tmp_path, "matrix")
    certificate.save(tmp_path / "c.json")
    seal_weights(tmp_path, lambda t: t.update({"1.base": (1e-5 * t["1.base"]).astype(np.float32)}))
    refused(tmp_path, "base point")


@pytest.mark.parametrize("activation", ["logarithm", "arcsinh"])
def test_states_so_large_that_sums_overflow_are_below_nothing(activation, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(wp.PcDEQ(4, 6, activation=activation, floor=0.5))
    with torch.no_grad():
        model[0].constraint.V.mul_(3.0)
    saved(model, tmp_path)
    forge(tmp_path / "c.json", evidence=lambda t: t.update({"0/floor": np.full(6, 1.7e308)}))
    refused(tmp_path, "")


@pytest.mark.parametrize("norm", ["inf", "1"])
def test_pixels_that_are_seen_apart_are_not_normalised_as_if_they_were_one_vector(norm):
    """The library itself certified 6.63 where 11.46 is attained: without a flattening, a layer sees the last axis only."""
    torch.manual_seed(0)
    apart = wp.Normalize((0.0, 0.0), (0.1, 10.0))
    for blocks in ((wp.NEMON(4, 3), nn.Linear(3, 2)), (nn.Linear(4, 2),)):
        with pytest.raises(wp.CertificateError):
            entrywise_bound(wp.materialise(nn.Sequential(apart, nn.Flatten(2), *blocks)).blocks, norm)
        alike = nn.Sequential(wp.Normalize((0.0, 0.0), (0.1, 0.1)), *blocks)
        assert wp.certify(alike, norm=norm).lipschitz > 0.0
    with pytest.raises(wp.CertificateError, match="latten"):
        wp.certify(nn.Sequential(apart, wp.NEMON(4, 3), nn.Linear(3, 2)), norm=norm)
    # The product of constants sees the smallest standard deviation everywhere.
    model = nn.Sequential(apart, nn.Linear(4, 2))
    certified, x = wp.certify(model, norm=norm).lipschitz, testing.randn(400, 2, 3, 4)
    change = torch.zeros_like(x)
    change[:, 0] = 1e-2 * testing.randn(400, 3, 4).sign()
    parts = (model(x + change) - model(x)).detach(), change
    moved, away = (torch.linalg.vector_norm(part.flatten(1), float(norm), dim=1) for part in parts)
    assert 0.1 * certified < float((moved / away).max()) <= certified * (1.0 + 1e-5)
    with pytest.raises(wp.CertificateError, match="Flatten"):
        wp.Verifier(nn.Sequential(apart, wp.MonDEQ(4, 3), nn.Linear(3, 2)).eval())


@pytest.mark.parametrize("norm", ["inf", "1"])
def test_files_must_say_that_images_are_flattened(norm, tmp_path):
    torch.manual_seed(0)
    layers = (wp.NEMON(8, 3), nn.Linear(3, 2))
    saved(nn.Sequential(wp.Normalize((0.0, 0.0), (0.1, 10.0)), nn.Flatten(), *layers), tmp_path, norm=norm)
    forge(tmp_path / "c.json", lambda content: content["blocks"][1].update(dims=[2, -1]))
    refused(tmp_path, "channels")


@pytest.mark.parametrize("size", [[1, 1], [8.9, 8], ["8", 8], [10**6, 10**6], [True, 8], 8])
def test_sizes_of_images_fit_the_chain(size, tmp_path):
    saved(circular(), tmp_path, method="product")

    def change(content):
        content["blocks"][1].update(image=size, input_image=size)

    forge(tmp_path / "c.json", change)
    with pytest.raises(Refuted):
        lines(tmp_path)


@pytest.mark.parametrize("norm", ["2", "inf", "1"])
def test_constants_that_underflow_are_not_zero(norm, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for part in model:
            part.weight.mul_(1e-200)
    certificate = wp.certify(model, norm=norm)
    assert certificate.lipschitz > 0.0 and bool((certificate.pairs + testing.eye(2) > 0.0).all())
    written(model, tmp_path, None, witnessed=False, norm=norm)
    for key in ("lipschitz", "pairs"):
        forge(
            tmp_path / "c.json",
            lambda content, key=key: content.update({key: 0.0 if key == "lipschitz" else [[0.0] * 2] * 2}),
        )
        with pytest.raises(Refuted):
            lines(tmp_path)


@pytest.mark.parametrize("value", ["1e9", True, None, [1.0], math.inf, math.nan])
def test_numbers_are_numbers(value, tmp_path):
    saved(circular(), tmp_path)
    for path in (("lipschitz",), ("joint", "value"), ("blocks", 0, "value")):

        def change(content, path=path):
            for key in path[:-1]:
                content = content[key]
            content[path[-1]] = value

        forge(tmp_path / "c.json", change)
        with pytest.raises(Refuted):
            lines(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["blocks"][1].update(tensors=[]),
        lambda c: c["blocks"][1].update(tensors="x"),
        lambda c: c.update(blocks=[]),
        lambda c: c.update(blocks=None),
        lambda c: c["blocks"][1].update(kind=["circular"]),
        lambda c: c.update(joint=[]),
        lambda c: c["joint"].update(pairs="x"),
    ],
)
def test_malformed_claims_are_refused_not_crashed_on(change, tmp_path):
    saved(circular(), tmp_path)
    forge(tmp_path / "c.json", change)
    with pytest.raises(Refuted):
        lines(tmp_path)


def test_honest_files_with_blocks_before_a_joint_bound_are_accepted(tmp_path):
    for seed in range(12):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 7), wp.MonDEQ(7, 5), nn.Linear(5, 3))
        saved(model, tmp_path)
        forge(tmp_path / "c.json", scaled("lipschitz", factor=1.0 - 1e-9))
        refused(tmp_path, "lipschitz")


def test_layers_whose_own_constant_is_better_than_any_metric_gives(tmp_path):
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(wp.NEMON(6, 20, mu=0.9), wp.OrthogonalDEQ(20, 4), nn.Linear(4, 2))
        certificate = saved(model, tmp_path, method="product")
        assert wp.Certificate.load(tmp_path / "c.json", model).lipschitz >= certificate.lipschitz


def test_witnesses_are_about_the_orthogonal_maps_that_run():
    """Formed again in float64 they are others, by more than the constants are apart."""
    for seed in range(30):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), wp.OrthogonalLinear(6, 4))
        for norm in (2, "inf", 1):
            certificate = wp.certify(model, norm=norm, inputs=testing.rand(5, 6))
            assert certificate.lower_bound <= certificate.lipschitz


def rank_one(layer, size, seed=0):
    """Weights that float32 makes something far from orthogonal of."""
    generator = testing.generator(seed)
    with torch.no_grad():
        rows, columns = layer.free[layer.free.shape[1] :].shape
        layer.free[layer.free.shape[1] :] = (
            size * testing.randn(rows, 1, generator=generator) @ testing.randn(1, columns, generator=generator)
        )
    return layer


@pytest.mark.parametrize("size", [1e3, 1e4])
@pytest.mark.parametrize("kind", ["map", "sandwich"])
def test_matrices_of_the_formula_where_the_network_runs_others(kind, size, tmp_path):
    layer = rank_one(wp.OrthogonalLinear(4, 9) if kind == "map" else wp.Sandwich(5, 4), size)
    model = nn.Sequential(layer)
    written(model, tmp_path, None)
    frame = cayley(layer.free.detach().double().numpy()[None])[0][0]

    def evidence(tensors):
        if kind == "map":
            tensors["0/matrix"] = np.ascontiguousarray(frame.astype(np.float32))
            return
        tensors["0/inner"] = np.ascontiguousarray((2**0.5 * frame[4:].T).astype(np.float32))
        tensors["0/outer"] = np.ascontiguousarray((2**0.5 * frame[:4]).astype(np.float32))

    def claim(content):
        content["blocks"][0].update(value=1.000004, **({"excess": 3e-6} if kind == "map" else {}))
        content.update(lipschitz=1.00001, pairs=None)

    forge(tmp_path / "c.json", claim, evidence)
    refused(tmp_path, "rounding: 0")


@pytest.mark.parametrize("parametrisation", ["bjorck", "exponential", "cayley"])
def test_fewer_columns_than_a_map_has(parametrisation, tmp_path):
    torch.manual_seed(1)
    head = wp.OrthogonalLinear(8, 3, parametrisation=parametrisation, dtype=torch.float64)
    model = nn.Sequential(nn.Identity(), head)
    written(model, tmp_path, None)
    matrix = head.weight.detach().numpy()

    def claim(content):
        content["blocks"][1]["shapes"] = [[3, 1]]
        content["pairs"] = (np.abs(matrix[:, :1] - matrix[:, :1].T) * (1.0 + 1e-6)).tolist()

    forge(tmp_path / "c.json", claim, lambda tensors: tensors.update({"1/matrix": matrix[:, :1].copy()}))
    refused(tmp_path, "accounting: 1/: a map of shape")


@pytest.mark.parametrize("name", ["LayerNorm", "Embedding", "MonDEQ", "Flatten", "OrthogonalLinear"])
def test_classes_of_other_kinds(name, tmp_path):
    torch.manual_seed(0)
    written(nn.Sequential(nn.Linear(4, 3)), tmp_path, None)
    forge(tmp_path / "c.json", lambda content: content["blocks"][0].update({"class": name}))
    refused(tmp_path, f"accounting: 0: a {name} is not of the kind")


def test_subclasses_that_change_nothing_have_the_name_of_what_they_compute(tmp_path):
    own = type("Own", (nn.Linear,), {})
    written(nn.Sequential(own(4, 3)), tmp_path, None)
    assert Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()


@pytest.mark.parametrize("shift", [0.0, -103.2, 90.0])
def test_scales_of_sdp_layers_are_ratios(shift, tmp_path):
    """Subnormal or huge q leave the network what it is; a unit without inputs needs no scale."""
    torch.manual_seed(0)
    layer = wp.SLL(5, 7)
    with torch.no_grad():
        layer.log_q.copy_(testing.randn(7))
        layer.free[2] = 0.0
        expected = layer(testing.ones(1, 5))
        layer.log_q += shift
        torch.testing.assert_close(layer(testing.ones(1, 5)), expected, rtol=1e-4, atol=1e-5)
    model = nn.Sequential(layer)
    assert written(model, tmp_path, None).lipschitz < 1.0 + 1e-5
    assert Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()


def test_scales_that_float32_cannot_resolve(tmp_path):
    torch.manual_seed(0)
    layer = wp.SLL(5, 7)
    with torch.no_grad():
        layer.log_q[0] = 95.0
    written(nn.Sequential(layer), tmp_path, None)
    refused(tmp_path, "rounding: 0")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_convolutions_with_tiny_rows_are_followed(dtype, tmp_path):
    """From one channel a frequency can have a row of nearly nothing, which rounds as the large ones do."""
    for seed in range(20):
        torch.manual_seed(seed)
        layer = wp.OrthogonalConv2d(1, 8, (6, 6), dtype=dtype)
        written(nn.Sequential(layer), tmp_path, None)
        assert lines(tmp_path)


@pytest.mark.parametrize("size", [2, 4, 16])
@pytest.mark.parametrize("spread", [0.01, 0.1, 0.3, 1.0])
def test_exponentials_are_followed_in_double_precision(size, spread, tmp_path):
    for seed in range(4):
        torch.manual_seed(seed)
        layer = wp.OrthogonalLinear(size, size, parametrisation="exponential", dtype=torch.float64)
        with torch.no_grad():
            layer.free.copy_(spread * testing.randn(size, size, dtype=torch.float64))
        written(nn.Sequential(layer), tmp_path, None)
        assert lines(tmp_path)
