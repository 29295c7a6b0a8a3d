"""ℓ∞ and ℓ1 constants: never below those of any activation pattern, attained by positive systems, near a semidefinite optimum."""

from __future__ import annotations

import dataclasses
import itertools
import json

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.results import unsealed
from wellposed import testing
from wellposed.bounds.affine_network import affine_network
from wellposed.bounds.entrywise import entrywise_bound
from wellposed.bounds.from_l1 import Columns
from wellposed.bounds.from_linf import Ellipsoids
from wellposed.cli.main import run as command

ORDERS = {"inf": torch.inf, "1": 1}


def model_of(kind, seed=0, units=5, inputs=4, classes=3):
    torch.manual_seed(seed)
    layers = {
        "mondeq": lambda: wp.MonDEQ(inputs, units, m=0.3), "nemon": lambda: wp.NEMON(inputs, units, mu=0.5),
        "tanh": lambda: wp.NEMON(inputs, units, activation="tanh"), "lben": lambda: wp.LBEN(inputs, units),
        "pcdeq": lambda: wp.PcDEQ(inputs, units), "bounded": lambda: wp.LBEN(inputs, units, gamma=2.0, out_features=classes),
    }  # fmt: skip
    head = [] if kind == "bounded" else [nn.Linear(units, classes)]
    model = nn.Sequential(wp.Normalize((0.2,), (0.4,)), nn.Flatten(), layers[kind](), *head)
    return model.double().eval()


def in_a_metric(model, norm):
    """The bound by diagonal metrics alone."""
    return {"inf": Ellipsoids(), "1": Columns()}[norm].bound(wp.materialise(model), norm)


def exact_constants(network, order):
    """Largest norms of Jacobians over all patterns: of all outputs, and of every margin."""
    n, k = len(network.matrix), len(network.output)
    best, pairs = 0.0, testing.zeros(k, k, dtype=torch.float64)
    for bits in itertools.product([0.0, 1.0], repeat=n):
        pattern = testing.tensor(bits, dtype=torch.float64)
        inverse = torch.linalg.inv(testing.eye(n, dtype=torch.float64) - pattern[:, None] * network.matrix)
        jacobian = network.output @ inverse @ (pattern[:, None] * network.weight)
        best = max(best, float(torch.linalg.matrix_norm(jacobian, order)))
        rows = jacobian[:, None] - jacobian[None]
        pairs = torch.maximum(pairs, rows.abs().sum(2) if order == torch.inf else rows.abs().amax(2))
    return best, pairs


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("kind", ["mondeq", "nemon", "lben", "bounded"])
@pytest.mark.parametrize("seed", range(3))
def test_no_pattern_exceeds_the_constants(kind, norm, seed):
    model = model_of(kind, seed)
    best, pairs = exact_constants(affine_network(model), ORDERS[norm])
    found = wp.certify(model, norm=norm)
    assert best <= found.lipschitz * (1 + 1e-9) <= 4.0 * best
    assert bool((pairs <= found.pairs * (1 + 1e-9)).all())
    assert not bool(found.pairs.diagonal().any())


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("kind", ["mondeq", "nemon", "tanh", "lben", "pcdeq", "bounded"])
def test_certificates_bound_pairs_of_inputs(kind, norm):
    model = model_of(kind, inputs=9, units=7)
    x = testing.rand(300, 1, 3, 3, dtype=torch.float64)
    certificate = wp.certify(model, norm=norm, inputs=x[:8])
    assert certificate.norm == norm and certificate.check()
    assert 0.0 < certificate.lower_bound <= certificate.lipschitz
    with torch.no_grad():
        y = model(x)
    change, apart = y[1:] - y[:-1], (x[1:] - x[:-1]).flatten(1)
    order = ORDERS[norm]
    distance = torch.linalg.vector_norm(apart, order, dim=1)
    assert float((torch.linalg.vector_norm(change, order, dim=1) / distance).max()) <= certificate.lipschitz
    margins = (change[:, :, None] - change[:, None]).abs().amax(0)
    assert bool(
        (
            ((change[:, :, None] - change[:, None]).abs() / distance[:, None, None]).amax(0)
            <= certificate.pairs + 1e-12
        ).all()
    )
    labels = y.argmax(1)
    radii = certificate.evaluate(x, labels)
    assert margins.shape == certificate.pairs.shape and bool((radii > 0).any())
    signs = (
        torch.randn_like(x).sign()
        if norm == "inf"
        else nn.functional.one_hot(testing.randint(9, (300,)), 9).reshape(x.shape)
    )
    moved = x + 0.999 * radii.reshape(-1, 1, 1, 1) * signs
    assert torch.equal(model(moved).argmax(1)[radii > 0], labels[radii > 0])


def test_positive_systems_attain_the_componentwise_constant():
    torch.manual_seed(0)
    layer = wp.NEMON(3, 4, mu=0.5, dtype=torch.float64)
    with torch.no_grad():
        layer.constraint.T.abs_()
        layer.injection.weight.abs_()
    head = nn.Linear(4, 2, dtype=torch.float64)
    head.weight.data.abs_()
    model = nn.Sequential(layer, head)
    jacobian = head.weight @ torch.linalg.inv(testing.eye(4) - layer.operator().dense()) @ layer.injection.weight
    for norm, order in ORDERS.items():
        expected = float(torch.linalg.matrix_norm(jacobian.detach(), order))
        assert entrywise_bound(wp.materialise(model).blocks, norm).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.float32
@pytest.mark.parametrize("norm", ["inf", "1"])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_near_the_semidefinite_optimum(seed, norm):
    """For ℓ∞ over all ellipsoids Σ d_i x_i² ≤ Σ d_i at once; for ℓ1 the largest of all columns, in one metric."""
    model = model_of("mondeq", seed, units=4, inputs=5, classes=2)
    network = affine_network(model)
    n, d = network.weight.shape
    displacement, weight = np.eye(n) - network.matrix.numpy(), network.weight.numpy()
    row = (network.output[0] - network.output[1]).numpy()
    multipliers = cp.Variable(n, nonneg=True)
    half, side = cp.diag(multipliers) @ displacement, cp.diag(multipliers) @ weight
    inner = half + half.T - np.outer(row, row)
    if norm == "inf":
        shares = cp.Variable(d, nonneg=True)
        problem = cp.Problem(cp.Minimize(cp.sum(shares)), [cp.bmat([[inner, side], [side.T, cp.diag(shares)]]) >> 0])
    else:
        square = cp.Variable((1, 1))
        columns = [side[:, j : j + 1] for j in range(d)]
        problem = cp.Problem(cp.Minimize(square), [cp.bmat([[inner, part], [part.T, square]]) >> 0 for part in columns])
    problem.solve(solver="CLARABEL")
    found, best = float(in_a_metric(model, norm).pairs[0, 1]), float(problem.value) ** 0.5
    assert best * (1 - 1e-6) <= found <= best * 1.03


@pytest.mark.parametrize("scale", [1e-160, 1e-8, 1.0, 1e8])
def test_one_input_has_the_euclidean_constant_at_every_scale(scale):
    """In one dimension all norms of the input are the same, and so are the conditions."""
    model = model_of("mondeq", units=4, inputs=1, classes=2)
    with torch.no_grad():
        next(block for block in model if isinstance(block, wp.Equilibrium)).injection.weight.mul_(scale)
    euclidean = wp.certify(model, method="metric").pairs[0, 1]
    assert float(in_a_metric(model, "1").pairs[0, 1]) == pytest.approx(float(euclidean), rel=1e-2, abs=0.0)
    assert in_a_metric(model, "1").pairs[0, 1] >= euclidean * (1 - 1e-4)


@pytest.mark.parametrize("norm", [2, "inf"])
def test_activations_with_negative_slopes_have_witnesses(norm):
    torch.manual_seed(0)
    model = nn.Sequential(wp.NEMON(5, 6, activation="gelu"), nn.Linear(6, 3))
    certificate = wp.certify(model, norm=norm, inputs=testing.randn(4, 5))
    assert 0.0 < certificate.lower_bound <= certificate.lipschitz
    assert certificate.check()


def test_what_is_refused():
    model = model_of("mondeq")
    for options, match in (({"norm": 3}, "norm"), ({"norm": "inf", "method": "metric"}, "method")):
        with pytest.raises(wp.InputError, match=match):
            wp.certify(model, **options)
    with pytest.raises(wp.CertificateError, match="norm='inf'"):
        wp.certify(nn.Sequential(wp.ConvMonDEQ(1, 1, (3, 3)), nn.ReLU()), norm="inf")
    certificate = wp.certify(model, norm="inf")
    with pytest.raises(wp.InputError, match="rule"):
        certificate.radius(testing.zeros(1, 3), testing.zeros(1, dtype=torch.int64), rule="sqrt2")
    with pytest.raises(wp.CertificateError, match="lipschitz"):
        dataclasses.replace(certificate, lipschitz=0.99 * certificate.lipschitz).check()


def test_activations_at_the_end_have_no_margins_and_active_dropout_is_refused():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU()).double().eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(testing.tensor([0.0, -10.0]))
    for norm in ORDERS:
        found = wp.certify(model, norm=norm)
        assert found.pairs is None and found.lipschitz >= 1.0
        assert wp.certify(nn.Sequential(model[0], nn.Identity()), norm=norm).pairs is not None
        with pytest.raises(wp.CertificateError, match="dropout"):
            wp.certify(nn.Sequential(model[0], nn.Dropout(), nn.Linear(2, 2).double()).train(), norm=norm)


def test_blocks_that_only_seem_to_reshape_are_refused():
    class Sharper(nn.Identity):
        def forward(self, x):
            return 100 * x

    for layer in (wp.MonDEQ(3, 4), wp.PcDEQ(3, 4)):
        model = nn.Sequential(Sharper(), layer, nn.Linear(4, 2)).eval()
        for norm in ORDERS:
            with pytest.raises(wp.CertificateError):
                wp.certify(model, norm=norm)
        plain = nn.Sequential(layer, model[2]).eval()
        assert wp.certify(model).lipschitz == pytest.approx(100.0 * wp.certify(plain).lipschitz, rel=1e-9)


@pytest.mark.float32
def test_the_command(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert command(["train", "nemon", "--data", "digits", "--epochs", "2", "--width", "8", "--out", run, "--json"]) == 0
    capsys.readouterr()
    arguments = ["certify", run, "--norm", "linf", "--limit", "30", "--eps", "0.001", "0.1", "--json"]
    assert command(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["norm"] == "linf" and result["certified"]["0.001"] > result["certified"]["0.1"]
    assert 0.0 < result["lower_bound"] <= result["lipschitz"]
    assert (tmp_path / "run" / "certified-inf.json").exists() and not (tmp_path / "run" / "certified.json").exists()
    assert command([*arguments[:-1], "--method", "ladder", "--seconds", "2"]) == 0
    table = capsys.readouterr().out
    assert "ℓ∞ boxes" in table and "0.001" in table
    assert (tmp_path / "run" / "verified-inf.json").exists()
    assert (
        command(["attack", run, "--norm", "linf", "--limit", "30", "--eps", "0.001", "0.1", "--steps", "5", "--json"])
        == 0
    )
    attacked = json.loads(capsys.readouterr().out)["attacked"]
    assert attacked["0.001"] >= result["certified"]["0.001"] and attacked["0.1"] >= result["certified"]["0.1"]
    # What contradicts a verdict is an error, whoever comes second.
    path = tmp_path / "run" / "verified-inf.json"
    content = unsealed(path)
    path.write_text(
        json.dumps({**content, "status": [["certified"] * 30 for _ in content["radii"]], "radii": [0.5, 0.9]})
    )
    assert command(["attack", run, "--norm", "linf", "--limit", "30", "--eps", "0.5", "--steps", "5"]) == 1
    assert "the verification is wrong" in capsys.readouterr().err
    assert command([*arguments[:4], "--norm", "l1", "--method", "ladder"]) == 2


@pytest.mark.float32
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_certificates_and_attacks_of_the_command_may_not_contradict_each_other(tmp_path, capsys, norm):
    run, x = str(tmp_path / "run"), testing.rand(200, 4).numpy()
    np.savez(tmp_path / "own.npz", x_train=x, y_train=x[:, 0] > x[:, 1])
    data = ["--data", str(tmp_path / "own.npz")]
    assert command(["train", "mondeq", *data, "--epochs", "1", "--width", "8", "--out", run, "--json"]) == 0
    common = [run, "--norm", norm, "--limit", "20", "--eps", "0.2", "9.0"]
    attack = ["attack", *common, "--steps", "5"]
    assert command(["certify", *common]) == 0 and command(attack) == 0 and command(["certify", *common]) == 0
    path = tmp_path / "run" / f"certified-{norm.removeprefix('l')}.json"
    content = unsealed(path)
    largest = max(radius for radii in content["radii"].values() for radius in radii)
    path.write_text(json.dumps({**content, "radii": {"forged": [100.0 * largest] * 20}}))
    capsys.readouterr()
    assert command(attack) == 1
    assert "the certificate is wrong" in capsys.readouterr().err


def test_rows_of_a_vector_that_was_taken_apart_are_not_its_entries():
    """Every row has its own standard deviations: the entrywise bound was 0.43 where 100 is attained."""
    linear = nn.Linear(2, 3, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1e-3, 1.0], [0.0, 0.5], [0.0, -1.0]], dtype=torch.float64))
    model = nn.Sequential(wp.Normalize((0.0, 0.0), (0.01, 3.0)), nn.Flatten(), nn.Unflatten(1, (4, 2)), linear)
    network = wp.materialise(model.double().eval(), (2, 2, 2))
    x = torch.zeros(2, 2, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: network(v[None]).flatten(), x).flatten(1)
    for norm, order in (("inf", float("inf")), ("1", 1.0)):
        assert wp.certify(network, norm=norm).lipschitz >= float(torch.linalg.matrix_norm(jacobian, order)) * (1 - 1e-6)
        with pytest.raises(wp.CertificateError):
            wp.certify(network, norm=norm, method="entrywise")


def test_maps_of_rows_are_certified_by_their_product_or_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(6, 2)).eval()
    for norm in ("inf", "1"):
        assert wp.certify(wp.materialise(model, (2, 4)), norm=norm).lipschitz > 0.0


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
    model = nn.Sequential(apart, nn.Linear(4, 2)).double()
    certified, x = wp.certify(model, norm=norm).lipschitz, testing.randn(400, 2, 3, 4, dtype=torch.float64)
    change = torch.zeros_like(x)
    change[:, 0] = 1e-2 * testing.randn(400, 3, 4, dtype=torch.float64).sign()
    parts = (model(x + change) - model(x)).detach(), change
    moved, away = (torch.linalg.vector_norm(part.flatten(1), float(norm), dim=1) for part in parts)
    assert 0.1 * certified < float((moved / away).max()) <= certified * (1.0 + 1e-9)
    with pytest.raises(wp.CertificateError, match="Flatten"):
        wp.Verifier(nn.Sequential(apart, wp.MonDEQ(4, 3), nn.Linear(3, 2)).eval())


@pytest.mark.parametrize("norm", ["2", "inf", "1"])
def test_constants_that_underflow_are_not_zero(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for part in model:
            part.weight.mul_(1e-200)
    certificate = wp.certify(model, norm=norm)
    assert certificate.lipschitz > 0.0 and bool((certificate.pairs + testing.eye(2) > 0.0).all())


@pytest.mark.parametrize(
    ("family", "seed", "scale"),
    [("MonDEQ", 0, 4.0), ("MonDEQ", 2, 10.0), ("MonDEQ", 1, 4.0), ("LBEN", 0, 10.0), ("LBEN", 2, 4.0)],
)
def test_functions_of_one_number_have_one_constant_in_every_norm(family, seed, scale):
    """But for the third, the metric is singular at an optimum, so that nothing is proved there, but close by."""
    torch.manual_seed(seed)
    layer = getattr(wp, family)(1, 50)
    with torch.no_grad():
        for part in layer.parameters():
            part.mul_(scale)
    model = nn.Sequential(layer, nn.Linear(50, 1))
    certificates = [wp.certify(model, norm=norm) for norm in ("2", "inf", "1")]
    constants = [certificate.lipschitz for certificate in certificates]
    assert max(constants) <= min(constants) * (1.0 + 1e-6)
    assert all("metric" in certificate.method for certificate in certificates)
    for certificate in certificates:
        certificate.check()
    x = testing.linspace(-3.0, 3.0, 400)[:, None]
    with torch.no_grad():
        y = model(x)
    assert float(((y[1:] - y[:-1]) / (x[1:] - x[:-1])).abs().max()) <= constants[0] * (1.0 + 1e-3)
