"""Kinds of one's own, defined here: certified, evaluated, verified image by image and attacked by their own answers."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.attacks import adversarial_distances
from wellposed.falsification.slopes import sampled_slopes
from wellposed.verification import verifier_of


@wp.register
class Softened(wp.Activation):
    """σ(v) = v/2 + tanh(v)/4: slopes in (1/2, 3/4]."""

    slope_range = (0.5, 0.75)

    def __call__(self, value):
        return 0.5 * value + 0.25 * torch.tanh(value)

    def derivative(self, value):
        return 0.5 + 0.25 * (1.0 - torch.tanh(value).square())

    def __repr__(self):
        return "softened"


class Reflection(nn.Module):
    """x − 2v(vᵀx)/‖v‖²: an isometry."""

    def __init__(self, features):
        super().__init__()
        self.normal = nn.Parameter(testing.randn(features))

    def forward(self, x):
        return x - 2.0 * (x @ self.normal)[:, None] * self.normal / self.normal.square().sum()


class ReflectionBlock(wp.Block):
    """What is known of a `Reflection`: its constant, and a bound of its rounding."""

    def constant(self, norm):
        if norm != "2":
            return super().constant(norm)
        return (
            1.0 + 1e-12 if self.module.normal.dtype == torch.float64 else 1.0 + 1e-5,
            "a reflection, as it is rounded",
        )

    def relative_rounding(self, value, image):
        unit = 8.0 * torch.finfo(value.dtype).eps * value.shape[1]
        return wp.Own(unit * value.double().norm(dim=1), unit)


wp.register(Reflection, ReflectionBlock)


@wp.register
class SineLayer(wp.ImplicitLayer):
    """z = sin(z)/2 + Ux: a contraction of one half that is not affine in z."""

    def __init__(self, inputs, features, **options):
        super().__init__(**options)
        self.drive = nn.Linear(inputs, features, bias=False)

    @property
    def input_shape(self):
        return (self.drive.in_features,)

    @property
    def state_shape(self):
        return (self.drive.out_features,)

    def solve(self, x, z0=None):
        rtol, atol = self.limits()
        offset = self.drive(x)
        found = wp.fixed_point(
            lambda z, q: 0.5 * torch.sin(z) + q, torch.zeros_like(offset), (offset,), rtol=rtol, atol=atol,
            guarantee=wp.Contraction(0.5),
        )  # fmt: skip
        constant, inside, outside = self.evaluation_rounding(x.dtype)
        own = constant + inside * x.double().norm(dim=1) + outside * found.value.double().norm(dim=1)
        return dataclasses.replace(found, error_bound=found.error_bound.double() + own)

    def state(self, x):
        return self.solve(x).value

    def evaluation_rounding(self, dtype):
        unit, size = torch.finfo(dtype).eps, float(torch.linalg.matrix_norm(self.drive.weight.detach().double()))
        return 4.0 * unit, 2.0 * unit * (self.drive.in_features + 4) * size, 8.0 * unit

    def lipschitz(self):
        return 2.0 * float(torch.linalg.matrix_norm(self.drive.weight.detach().double(), 2)) * (
            1.0 + 1e-10
        ), "‖U‖₂/(1 − 1/2)"


def activation_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), wp.Elementwise(Softened()), nn.Linear(5, 3))


def equilibrium_model():
    return nn.Sequential(nn.Flatten(), wp.MonDEQ(6, 5, activation=Softened()), nn.Linear(5, 3))


def explicit_model():
    return nn.Sequential(nn.Flatten(), Reflection(6), nn.Linear(6, 4), nn.ReLU(), Reflection(4), nn.Linear(4, 3))


def implicit_model():
    return nn.Sequential(nn.Flatten(), SineLayer(6, 5), nn.Linear(5, 3))


MODELS = {
    "activation between blocks": activation_model,
    "activation of a layer": equilibrium_model,
    "explicit block": explicit_model,
    "implicit layer": implicit_model,
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(3)
    model = MODELS[request.param]().eval()
    with torch.no_grad():  # so that classes change within the unit cube
        model[-1].weight.mul_(5.0)
        model[-1].bias.copy_(-model[-1].weight @ model[:-1](points()).mean(0))
    return model


def points(count=40):
    return testing.rand(count, 1, 2, 3, generator=testing.generator(5))


def test_certified_and_near_what_is_attained(model):
    certificate = wp.certify(model, inputs=points(8))
    assert 0.2 * certificate.lipschitz < certificate.lower_bound <= certificate.lipschitz
    assert certificate.is_about(model) and certificate.check(model)
    seen = sampled_slopes(copy.deepcopy(model).double(), points().double(), random_pairs=64)
    assert seen.largest <= certificate.lipschitz * (1.0 + 1e-6)


def test_evaluated_with_errors_that_hold(model):
    x = points()
    result = wp.materialise(model).bounded(x)
    exact = wp.materialise(model).exact(x.double())
    away = (result.logits.double() - exact).norm(dim=1)
    assert bool((away <= result.error + 1e-8).all()) and bool(torch.isfinite(result.error).all())
    assert float(result.error.amax()) < 1e-3
    labels = model(x).argmax(1)
    radii = wp.certify(model).evaluate(x, labels)
    assert bool((radii > 0.0).any()) and bool(torch.isfinite(radii).all())
    generator = testing.generator(6)
    for _ in range(20):
        change = testing.randn(x.shape, generator=generator)
        change = (
            0.999 * radii.reshape(-1, 1, 1, 1).float() * change / change.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        )
        assert torch.equal(model(x + change).argmax(1)[radii > 0], labels[radii > 0])


def test_verified_image_by_image(model):
    x = points(6)
    labels = model(x).argmax(1)
    radii = wp.certify(model).evaluate(x, labels)
    verifier = verifier_of(model, valid=None)
    sure = verifier.verify_batch(x, labels.tolist(), 0.9 * float(radii[radii > 0].min()))
    assert [verdict.status for verdict, radius in zip(sure, radii, strict=True) if radius > 0] == ["certified"] * int(
        (radii > 0).sum()
    )
    for image, label, verdict in zip(x, labels, verifier.verify_batch(x, labels.tolist(), 5.0), strict=True):
        assert verdict.status in ("falsified", "unknown")
        if verdict.status == "falsified":
            assert float((verdict.counterexample - image.double()).norm()) <= 5.0
            assert int(model(verdict.counterexample[None].float()).argmax()) != int(label)


def test_attacked_beyond_its_radii(model):
    pytest.importorskip("foolbox")
    x = points(10)
    labels = model(x).argmax(1)
    certificate = wp.certify(model)
    radii = certificate.evaluate(x, labels)
    distances, _ = adversarial_distances(model, x, labels, [0.1, 1.0])
    assert bool((distances >= radii * (1.0 - 1e-6)).all()) and bool(torch.isfinite(distances).any())


def test_a_kind_that_knows_nothing_is_refused_with_what_is_missing():
    class Silent(nn.Module):
        def forward(self, x):
            return torch.cos(x)

    wp.register(Silent, wp.Block)
    with pytest.raises(wp.CertificateError, match=r"1: no Lipschitz constant is known for a Silent"):
        wp.certify(nn.Sequential(nn.Linear(3, 3), Silent(), nn.Linear(3, 2)).eval())
    with pytest.raises(wp.InputError, match="answers"):
        wp.register(Silent, nn.Linear)
    wp.register(Silent, wp.Block)  # its author may change his mind
    for taken in (nn.Linear, nn.ReLU, nn.Tanh, wp.MonDEQ, wp.ExplicitBlock):
        with pytest.raises(wp.InputError, match="has the answers of this library"):
            wp.register(taken, wp.Block)


def test_a_lie_about_a_constant_is_a_contradiction():
    class Tripled(nn.Module):
        def forward(self, x):
            return 3.0 * x

    class Lying(wp.Block):
        def constant(self, norm):
            return 1.0, "on my word"

        def relative_rounding(self, value, image):
            return wp.Own(1e-5 * value.double().norm(dim=1), 1e-5)

    wp.register(Tripled, Lying)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), Tripled(), nn.Linear(3, 2)).eval()
    assert math.isfinite(wp.certify(model).lipschitz)
    with pytest.raises(wp.CertificateError, match="contradiction"):
        wp.certify(model, inputs=testing.rand(4, 3))


def test_a_layer_that_computes_something_else_is_refused():
    class Doubled(wp.Sandwich):
        def forward(self, x):
            return 2.0 * super().forward(x)

    class Turned(wp.OrthogonalDEQ):
        def readout(self, state, x):
            return 5.0 * super().readout(state, x)

    class Scaled(wp.Sandwich):
        def forward(self, x):
            return 5.0 * super().forward(x)

        def lipschitz(self):  # which says nothing of the intervals that it inherits
            return 5.0 * super().lipschitz()

    class Solved(wp.OrthogonalDEQ):
        def solve(self, x, z0=None):
            return super().solve(3.0 * x, z0)

    for kind, words in (
        (Doubled, "forward"),
        (Turned, "readout"),
        (Scaled, "forward"),
        (Solved, "inherits a lipschitz"),
    ):
        with pytest.raises(wp.InputError, match=words):
            wp.register(kind)


@pytest.mark.parametrize("answer", [1.0, (float("nan"), "no number"), (-1.0, "negative"), ("1", "a string"), None])
def test_an_answer_that_is_no_constant_is_named(answer):
    class Odd(nn.Module):
        def forward(self, x):
            return 1.0 * torch.sign(x)

    class OddBlock(wp.Block):
        def constant(self, norm):
            return answer

    wp.register(Odd, OddBlock)
    with pytest.raises(wp.CertificateError, match="1: the constant of a Odd"):
        wp.certify(nn.Sequential(nn.Linear(3, 3), Odd(), nn.Linear(3, 2)).eval())
