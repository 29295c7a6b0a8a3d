"""Baselines: explicit 1-Lipschitz layers, and the plain equilibrium model that promises nothing."""

from __future__ import annotations

import json

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.network import bounded_logits

pytestmark = pytest.mark.usefixtures("short_search")


def test_residual_layers_count_both_norms():
    torch.manual_seed(0)
    block = wp.Residual(4, 6, dtype=torch.float64)
    x = testing.randn(200, 4, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(block))(x)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= block.lipschitz()
    with torch.no_grad():  # attained: H and G aligned, all units on
        block.inner.copy_(testing.eye(6, 4) * 2.0)
        block.outer.copy_(testing.eye(4, 6) * 1.5)
        block.bias.fill_(100.0)
    jacobian = torch.func.jacrev(block)(x[0])
    assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(block.lipschitz(), rel=1e-9)
    assert block.lipschitz() == pytest.approx(4.0)


def blocks(dtype=torch.float64):
    torch.manual_seed(0)
    found = [
        wp.Sandwich(7, 5, dtype=dtype),
        wp.Sandwich(4, 9, dtype=dtype),
        wp.SLL(6, dtype=dtype),
        wp.SLL(5, 11, dtype=dtype),
    ]
    with torch.no_grad():
        for block in found:
            for parameter in block.parameters():
                if parameter.ndim == 1:
                    parameter.normal_(std=0.7)
    return found


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_is_one_and_never_exceeded(index, dtype):
    block = blocks(dtype)[index]
    constant = block.lipschitz()
    assert 1.0 - 1e-6 <= constant <= 1.0 + (2e-5 if dtype == torch.float32 else 1e-9)
    exact = block.double()
    x = 3 * testing.randn(300, block.in_features, dtype=torch.float64)
    y = x + torch.randn_like(x) * 10.0 ** testing.linspace(-5, 1, 300, dtype=torch.float64)[:, None]
    with torch.no_grad():
        ratio = (exact(x) - exact(y)).norm(dim=1) / (x - y).norm(dim=1)
        jacobians = torch.func.vmap(torch.func.jacrev(exact))(x)
    limit = exact.lipschitz() * (1 + 1e-9)
    assert float(ratio.max()) <= limit
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= limit


@pytest.mark.parametrize("index", [0, 2])
def test_the_constant_is_attained(index):
    """A sandwich layer with all units on has the Jacobian 2AᵀB, of norm one where A = B/1 = I/√2; so has x − HᵀT·0."""
    if index == 0:
        block = wp.Sandwich(3, 3, dtype=torch.float64)
        with torch.no_grad():
            # Cayley with U = 0 and VᵀV = I·s: the frame is ((1 − s)/(1 + s), −2√s/(1 + s)); equal in size at s = (√2 − 1)².
            block.free.zero_()
            block.free[3:] = (2**0.5 - 1) * testing.eye(3)
            block.bias.fill_(100.0)
    else:
        block = wp.SLL(3, dtype=torch.float64)
        with torch.no_grad():
            block.bias.fill_(-100.0)
    jacobian = torch.func.jacrev(block)(testing.randn(3, dtype=torch.float64))
    assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e2, 1e6])
@pytest.mark.parametrize("index", range(4))
def test_extreme_parameters_keep_a_sound_constant(index, scale):
    block = blocks(torch.float32)[index]
    with torch.no_grad():
        block.free.mul_(scale)
        block.free[0] = 0.0
    constant = block.lipschitz()
    x = testing.randn(50, block.in_features, dtype=torch.float64)
    inner, outer, _ = (part.detach().double() for part in block.maps())

    def as_it_runs(v):
        value = torch.relu(v @ inner.t() + block.bias.detach().double()) @ outer.t()
        return v + value if block.residual else value

    jacobians = torch.func.vmap(torch.func.jacrev(as_it_runs))(x)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= constant * (1 + 1e-9)
    assert constant <= (1.01 if scale <= 1e2 else 1e3)  # where rounding wins, the constant says so


@pytest.mark.parametrize("index", range(4))
def test_training_with_weight_decay_keeps_the_constant(index):
    block = blocks(torch.float32)[index]
    optimiser = torch.optim.AdamW(block.parameters(), lr=1e-2, weight_decay=1e-2)
    x, target = testing.randn(32, block.in_features), testing.randn(32, block.out_features)
    losses = []
    for _ in range(200):
        loss = (3 * block(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert block.lipschitz() <= 1.0 + 1e-4


def test_errors_of_evaluation_are_bounded():
    model = torch.nn.Sequential(wp.OrthogonalLinear(7, 6), wp.SLL(6, 9), wp.Sandwich(6, 5), torch.nn.Linear(5, 3))
    x = testing.randn(100, 7)
    found = bounded_logits(model, x)
    exact = model.double()(x.double())
    with torch.no_grad():
        # Against the float32 maps as formed: what is certified is them.
        value = x.double() @ model[0].float().weight.double().t() + model[0].bias.double()
        for block in model[1:3]:
            inner, outer, _ = (part.double() for part in block.float().maps())
            hidden = torch.relu(value @ inner.t() + block.bias.double()) @ outer.t()
            value = value + hidden if block.residual else hidden
        value = value @ model[3].float().weight.double().t() + model[3].bias.double()
    assert ((found.logits.double() - value).norm(dim=1) <= found.error).all()
    assert float((value - exact).norm(dim=1).max()) < 1e-4


def test_a_plain_deq_promises_nothing_and_says_so():
    torch.manual_seed(0)
    layer = wp.DEQ(7, 6, dtype=torch.float64)
    x = testing.randn(5, 7, dtype=torch.float64)
    solution = layer.solve(x)
    assert solution.error_bound is None
    assert solution.converged.all()
    image = torch.tanh(solution.value @ layer.operator().dense().t() + layer.injection(x))
    torch.testing.assert_close(image, solution.value, rtol=1e-8, atol=1e-9)
    with pytest.raises(wp.GuaranteeError, match="this layer has no guarantee"):
        layer.lipschitz()
    # What nobody promised may hold all the same: here a diagonal metric proves it.
    model = torch.nn.Sequential(layer, torch.nn.Linear(6, 3, dtype=torch.float64)).eval()
    certificate = wp.certify(model, inputs=x)
    assert certificate.check() and 0.0 < certificate.lower_bound <= certificate.lipschitz
    y, labels = testing.randn(500, 7, dtype=torch.float64), testing.zeros(500, dtype=torch.int64)
    slopes = (model(y[1:]) - model(y[:-1])).norm(dim=1) / (y[1:] - y[:-1]).norm(dim=1)
    assert float(slopes.max()) <= certificate.lipschitz
    assert bool((certificate.evaluate(y, labels) > 0.0).any())
    unstable = wp.DEQ(7, 6, activation="softplus", max_steps=50, dtype=torch.float64)
    with torch.no_grad():
        unstable.constraint.W.copy_(2 * testing.eye(6))  # z = softplus(2z + …) has no solution
        unstable.injection.bias.fill_(5.0)
    with pytest.raises(wp.CertificateError, match="no diagonal metric"):
        wp.certify(torch.nn.Sequential(unstable, torch.nn.Linear(6, 3, dtype=torch.float64)))
    with pytest.warns(wp.NotConvergedWarning):
        found = unstable.solve(0 * x)
    assert not found.converged.any()
    exact = wp.DEQ(3, 4, dtype=torch.float64, rtol=1e-13, atol=1e-13)
    names = [name for name, _ in exact.named_parameters()]
    x = testing.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *p: torch.func.functional_call(exact, dict(zip(names, p, strict=True)), (x,)),
        (x, *exact.parameters()),
    )


@pytest.mark.float32
@pytest.mark.parametrize("family", ["deq", "feedforward", "convolutional", "sandwich", "sll", "cayley"])
def test_baselines_from_the_command_line(family, tmp_path, capsys):
    out = str(tmp_path / "run")
    train = [
        "train",
        family,
        "--data",
        "digits",
        "--epochs",
        "4",
        "--width",
        "16",
        "--learning-rate",
        "0.02",
        "--out",
        out,
        "--json",
    ]
    assert command(train) == 0
    assert json.loads(capsys.readouterr().out)["test/accuracy"] > 0.4
    code = command(["certify", out, "--limit", "40", "--eps", "0.1"])
    captured = capsys.readouterr()
    certifiable = family not in ("deq", "convolutional")
    assert code == (0 if certifiable else 1)
    if not certifiable:
        assert "no diagonal metric" in captured.err or "no Lipschitz constant is known" in captured.err
    assert command(["attack", out, "--limit", "20", "--eps", "0.1", "--steps", "3", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    (row,) = summary["rows"]
    assert 0.0 <= row["attacked"] <= row["clean"] <= 1.0
    assert (summary["lipschitz"] is None) == (not certifiable)
    if certifiable:
        assert row["certified"] <= row["attacked"]
        if family in ("sandwich", "sll", "cayley"):
            assert summary["lipschitz"] <= 1.001
    else:
        assert row["certified"] is None
        assert command(["compare", out]) == 0
        assert "no certificate" in capsys.readouterr().out
