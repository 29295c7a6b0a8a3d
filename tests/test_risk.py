"""Risk certificates: the inverse of the binary divergence, Gaussian divergences, coverage, and the command."""

from __future__ import annotations

import json
import math
from decimal import Decimal, localcontext

import pytest
import torch
from torch import nn

import wellposed as wp
from harness.results import unsealed
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.generalisation.risk import (
    gaussian_kl,
    gaussian_kl_upper_bound,
    kl_inverse,
    risk_certificate,
)
from wellposed.training.posterior import Posterior


def binary_kl(q, p):
    """The relative entropy of two Bernoulli distributions, in twenty more digits than a float has."""
    with localcontext() as context:
        context.prec = 36
        pairs = ((Decimal(q), Decimal(p)), (1 - Decimal(q), 1 - Decimal(p)))
        return sum((a * (a / b).ln() if b else Decimal("inf") for a, b in pairs if a), Decimal(0))


@pytest.mark.parametrize("q", [0.0, 1e-6, 0.02, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("budget", [0.0, 1e-9, 1e-3, 0.1, 5.0])
def test_the_inverse_of_the_binary_divergence(q, budget):
    p = kl_inverse(q, budget)
    assert q <= p <= 1.0
    assert p == 1.0 or binary_kl(q, min(p * (1 + 1e-9), 1.0)) >= budget
    assert binary_kl(q, p * (1 - 1e-9)) <= budget + 1e-12 or p * (1 - 1e-9) < q
    if q == 0.0:
        assert p == pytest.approx(-math.expm1(-budget), abs=1e-12)


def test_gaussian_divergences_are_those_of_torch():
    mean, prior = testing.randn(2, 5, dtype=torch.float64)
    log_std, prior_log_std = testing.randn(2, 5, dtype=torch.float64)
    found = gaussian_kl(mean, log_std, prior, prior_log_std)
    first = torch.distributions.Normal(mean, log_std.exp())
    second = torch.distributions.Normal(prior, prior_log_std.exp())
    torch.testing.assert_close(found, torch.distributions.kl_divergence(first, second).sum())
    assert float(gaussian_kl(mean, log_std, mean, log_std)) == 0.0


@pytest.mark.parametrize("spread", [1e-9, 1e-3, 1.0, 30.0])
def test_the_bound_of_a_divergence_is_above_it_in_exact_arithmetic(spread):
    torch.manual_seed(0)
    parts = [spread * testing.randn(300, dtype=torch.float64) for _ in range(4)]
    bound = gaussian_kl_upper_bound(*parts)
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(0)
        for mean, log_std, centre, width in zip(*(map(Decimal, part.tolist()) for part in parts), strict=True):
            ratio = 2 * (log_std - width)
            exact += (ratio.exp() + ((mean - centre) / width.exp()) ** 2 - 1 - ratio) / 2
    assert Decimal(bound) >= exact
    assert bound == pytest.approx(float(exact), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("q", [0.0, 1e-9, 0.02, 0.5, 0.999999])
@pytest.mark.parametrize("budget", [0.0, 1e-17, 1e-12, 1e-3, 5.0])
def test_the_inverse_of_the_binary_divergence_is_never_too_small(q, budget):
    assert binary_kl(q, kl_inverse(q, budget)) >= Decimal(budget)


def test_the_certificate_fails_no_more_often_than_it_says():
    """Q = P over thresholds: r(Q) is known, and bounds from new samples and draws must cover it."""
    generator = testing.generator(0)
    risks = testing.tensor([0.05, 0.15], dtype=torch.float64)  # of two predictors, each drawn half of the time
    failures, trials, delta = 0, 400, 0.2
    for _ in range(trials):
        mistakes = testing.rand(200, 2, generator=generator) < risks
        drawn = testing.randint(2, (300,), generator=generator)
        rows = testing.randint(200, (300, 20), generator=generator)
        errors = mistakes[rows, drawn[:, None]].double().mean(1)
        failures += risk_certificate(errors, 0.0, 200, delta=delta).value < 0.1
    assert failures <= delta * trials


def test_the_certificate_grows_with_divergence_and_shrinks_with_samples():
    errors = testing.full((2000,), 0.03, dtype=torch.float64)
    values = [
        risk_certificate(errors, kl, n).value for kl, n in ((0.0, 60000), (100.0, 60000), (100.0, 6000), (1e5, 6000))
    ]
    assert values == sorted(values) and 0.03 < values[0] < 0.05 and values[-1] > 0.99
    found = risk_certificate(errors, 10.0, 1000)
    assert found.empirical == pytest.approx(0.03) and found.empirical < found.empirical_bound < found.value


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"errors": testing.tensor([1.5])}, "errors"), ({"errors": testing.tensor([math.nan])}, "errors"),
        ({"errors": testing.zeros(0)}, "errors"), ({"kl": -1.0}, "kl"), ({"kl": math.nan}, "kl"), ({"samples": 0}, "samples"),
        ({"delta": 0.0}, "delta"), ({"share": 1.0}, "share"),
    ],
)  # fmt: skip
def test_bad_input(change, match):
    options = {"errors": testing.zeros(3), "kl": 1.0, "samples": 10, **change}
    with pytest.raises(wp.InputError, match=match):
        risk_certificate(**options)


def test_draws_are_gaussians_around_the_weights_and_start_at_the_prior():
    torch.manual_seed(0)
    model = nn.Sequential(wp.MonDEQ(5, 4), nn.Linear(4, 3))
    posterior = Posterior(model, 0.1)
    assert float(posterior.kl().detach()) == 0.0
    generator = testing.generator(0)
    with torch.no_grad():
        drawn = [posterior.draw(generator)["1.weight"] for _ in range(4000)]
    stacked, weight = torch.stack(drawn), model[1].weight.detach()
    assert float((stacked.mean(0) - weight).abs().max()) < 0.02
    expected = 0.1 * float(weight.square().mean().sqrt())
    assert stacked.std(0).mean().item() == pytest.approx(expected, rel=0.05)
    weights = posterior.draw(generator)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = posterior.logits(weights, testing.randn(6, 5)).square().sum() + posterior.kl()
    loss.backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in posterior.mean.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.float32
def test_the_command_certifies_a_risk_on_digits(tmp_path, capsys):
    arguments = [
        "reproduce",
        "risk",
        "--preset",
        "digits",
        "--draws",
        "60",
        "--epochs",
        "2",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert command(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert unsealed(tmp_path / "risk.json") == record
    found = record["certificate"]
    assert record["test_error"] < found["value"] < 0.5
    assert found["empirical"] < found["empirical_bound"] < found["value"]
    assert found["kl"] > 0.0
    assert found["samples"] + record["prior_samples"] > 1000 > found["samples"]
    assert command([*arguments[:-1], "--preset", "nothing"]) == 2


def normalised_network():
    torch.manual_seed(0)
    model = nn.Sequential(wp.PcDEQ(5, 4, batch_norm=True), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model(testing.randn(40, 5))
    return model.train()


def test_buffers_are_those_of_the_prior():
    model = normalised_network()
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert len(before) >= 6
    posterior = Posterior(model, 0.1)
    for _ in range(3):
        model.train()  # whatever others do
        posterior.logits(posterior.draw(), 5.0 + testing.randn(30, 5)).square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    posterior.check_buffers()
    alone, together = (
        posterior.logits(dict(model.named_parameters()), x) for x in (testing.ones(1, 5), testing.eye(5) + 1)
    )
    again = posterior.logits(dict(model.named_parameters()), torch.cat([testing.ones(1, 5), testing.eye(5) + 1]))
    torch.testing.assert_close(torch.cat([alone, together]), again, rtol=1e-4, atol=1e-4)  # no sample sees another
    for leak in (lambda: model.train()(testing.randn(30, 5)), lambda: model.register_buffer("more", testing.zeros(1))):
        leak()
        with pytest.raises(wp.CertificateError, match="changed after the prior was chosen"):
            posterior.check_buffers()


@pytest.mark.float32
def test_running_statistics_of_the_command_are_those_of_the_priors_half(tmp_path, monkeypatch):
    """Neither the other half nor the test set moves them: the same with other samples there."""
    from dataclasses import replace

    from wellposed.experiments import risk
    from wellposed.training import posterior as module
    from wellposed.training.config import presets

    config = replace(presets()["digits"], epochs=1)
    seen = []
    load, build = risk.load_data, risk.build_model

    def normalised(config, data):
        built = build(config, data)
        return nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(data.train_x[0].numel()), nn.Unflatten(1, data.train_x[0].shape), built
        )

    class Watched(module.Posterior):
        def check_buffers(self):
            super().check_buffers()
            seen.append({name: value.clone() for name, value in self._model[0].named_buffers()})

    monkeypatch.setattr(risk, "build_model", normalised)
    monkeypatch.setattr(module, "Posterior", Watched)
    for factor in (1.0, 3.0):

        def shifted(config, root, factor=factor):
            data = load(config, root)
            half = len(data.train_y) // 2
            train = torch.cat([data.train_x[:half], factor * data.train_x[half:]])
            return replace(data, train_x=train, test_x=factor * data.test_x)

        monkeypatch.setattr(risk, "load_data", shifted)
        risk.certify_risk(
            config,
            tmp_path,
            data_root=None,
            scale=0.05,
            epochs=1,
            learning_rate=1e-3,
            draws=5,
            delta=0.1,
            done=lambda _: None,
        )
    assert seen[0].keys() == seen[1].keys() and all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    assert any("running_mean" in name for name in seen[0])
