"""The network as it runs: what the gate lets through, how a forward is followed, what is refused, and what a claim is about."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wellposed as wp
from wellposed import testing
from wellposed.activations import Smooth
from wellposed.constraints import Monotone
from wellposed.network import bounded_logits
from wellposed.network.materialise import gated


def steepest(model, shape, seed=0, points=12):
    """The largest slope of the live module that sampling finds: by Jacobians and by pairs of points."""
    generator = testing.generator(seed)
    best = 0.0
    for _ in range(points):
        x = 2.0 * testing.randn(1, *shape, generator=generator, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v.clone()), x)
        best = max(best, float(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2)))
        y = x + 0.5 * testing.randn(x.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            best = max(best, float((model(x.clone()) - model(y.clone())).norm() / (x - y).norm()))
    return best


def certified(model, shape):
    """The certificate of a model whose claims were compared with samples of the live module."""
    certificate = wp.certify(model)
    assert steepest(model, shape) <= certificate.lipschitz * (1.0 + 1e-9)
    x = testing.rand(5, *shape, dtype=torch.float64)
    found = certificate.network.bounded(x)
    with torch.no_grad():
        away = (model(x.clone()) - found.logits).norm(dim=1)
    assert bool((away <= found.error + found.elsewhere + 1e-12).all())
    assert certificate.is_about(model)
    assert bool((certificate.evaluate(x, found.logits.argmax(1)) >= 0.0).all())
    return certificate


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.layer, self.head = wp.MonDEQ(6, 6), nn.Linear(6, 3)
        self.register_buffer("mean", testing.rand(6))
        self.register_buffer("std", 0.5 + testing.rand(6))
        self.gain, self.others = 0.7, nn.ModuleList([nn.Linear(6, 6), nn.Tanh()])


class Residual(Parts):
    def forward(self, x):
        return self.head(x + F.relu(self.first(x)))


class Written(Parts):
    def forward(self, x):
        value = self.first(x)
        value += self.second(x)
        value *= 0.5
        value -= x
        return self.head(value.relu_())


class Normalised(Parts):
    def forward(self, x, *, scale=2.0, flag=True):
        value = (x - self.mean) / self.std
        if flag and self.gain > 0.5:
            value = self.gain * self.layer(value) - value
        for part in self.others:
            value = part(value)
        return self.head(torch.flatten(value.view(value.size(0), -1), 1) * scale)


class Shared(Parts):
    def forward(self, x):
        return self.head(self.first(F.leaky_relu(self.first(x), 0.1)) - self.layer(self.first(x)))


class Dense(Parts):
    """Branches that no nesting of sums describes."""

    def forward(self, x):
        one = self.first(x)
        two = torch.tanh(self.second(one)) + x
        return self.head(self.layer(two) + one - 0.1 * two)


class Functional(Parts):
    def forward(self, x):
        value = F.linear(x, 2.0 * self.first.weight, self.first.bias) @ self.second.weight.t()
        value = F.hardtanh(-value, -0.5, 2.0).clamp(max=1.5)
        return self.head(1.0 + F.dropout(F.gelu(value), 0.5, self.training) / torch.exp(self.mean[0]))


class Placed(Parts):
    def forward(self, x):
        mean = self.mean.to(x.device, x.dtype)
        return self.head(1.0 - x * torch.tensor([0.5] * 6, device=x.device, dtype=x.dtype) + mean)


class Inherited(nn.Linear):
    def forward(self, x):
        return 10.0 * super().forward(x)


class Nested(Parts):
    def __init__(self):
        super().__init__()
        self.inner, self.scaled = Residual(), Inherited(3, 4)

    def forward(self, x):
        return self.scaled(self.inner(torch.sigmoid(x)))


FOLLOWED = (Residual, Written, Normalised, Shared, Dense, Functional, Nested, Placed)


@pytest.mark.parametrize("kind", FOLLOWED, ids=lambda kind: kind.__name__)
def test_a_forward_of_ones_own_is_followed(kind):
    torch.manual_seed(0)
    certified(kind().double().eval(), (6,))


def test_a_sum_of_branches_has_the_sum_of_their_constants():
    class Doubled(nn.Module):
        def forward(self, x):
            return x + x - 3.0 * x

    model = nn.Sequential(Doubled(), nn.Linear(4, 2)).double().eval()
    alone = float(torch.linalg.matrix_norm(model[1].weight, 2))
    assert wp.certify(model, method="product").lipschitz == pytest.approx(5.0 * alone, rel=1e-9)

    class Attained(nn.Module):
        def forward(self, x):
            return x + 2.0 * x

    model[0] = Attained()
    assert steepest(model, (4,)) == pytest.approx(wp.certify(model).lipschitz, rel=1e-9)


class InputWritten(Parts):
    def forward(self, x):
        x += 1.0
        return self.head(x)


class ViewWritten(Parts):
    def forward(self, x):
        value = self.first(x)
        seen = value.view(value.size(0), -1)
        seen += 1.0
        return self.head(value)


class UsedWritten(Parts):
    def forward(self, x):
        value = self.first(x)
        other = value.mul_(2.0)
        return self.head(value + other)


class BufferWritten(Parts):
    def forward(self, x):
        self.mean.add_(1.0)
        return self.head(x + self.mean)


class Decided(Parts):
    def forward(self, x):
        return self.head(x) if x.sum() > 0 else self.head(-x)


class DecidedByShape(Parts):
    def forward(self, x):
        return self.head(x) if x.shape[1] == 6 else self.head(-x)


class Dropped(Parts):
    def forward(self, x):
        return self.head(F.dropout(x))


class Random(Parts):
    def forward(self, x):
        return self.head(x + torch.rand(6))


class Counting(Parts):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head(x) * self.calls


class Called(Parts):
    def forward(self, x):
        return self.head(x)

    def __call__(self, x):
        return 9.0 * super().__call__(x)


class Softmax(Parts):
    def forward(self, x):
        return self.head(torch.softmax(x, 1))


class Multiplied(Parts):
    def forward(self, x):
        return self.head(x * self.first(x))


class Mixed(Parts):
    def forward(self, x):
        return self.head(x.flip(0))


class Regrouped(Parts):
    def forward(self, x):
        return self.head(x.reshape(-1, 2).repeat(1, 3))


class Assigned(Parts):
    def forward(self, x):
        value = self.first(x)
        value[:, 0] = 1.0
        return self.head(value)


class Half(Parts):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.head(x).float()


REFUSED = {
    InputWritten: "in place", ViewWritten: "in place", UsedWritten: "in place", BufferWritten: "writes into a constant",
    Decided: "decides", DecidedByShape: "decides .* the shape",
    Dropped: "dropout is active", Random: "every time|random", Counting: "own attributes",
    Called: "replaces the call", Softmax: "softmax is not known", Multiplied: "multiplies two tensors",
    Mixed: "flip is not known",
    Regrouped: "first size", Assigned: "could not be followed", Half: "autocast",
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_is_not_known_is_refused_with_the_reason(kind):
    torch.manual_seed(0)
    with pytest.raises(wp.CertificateError, match=REFUSED[kind]):
        wp.certify(kind().eval())


def test_an_unknown_operation_is_named_with_its_path_and_what_is_known():
    model = nn.Sequential(nn.Linear(6, 6), Softmax()).eval()
    with pytest.raises(
        wp.CertificateError, match=r"1: the call of softmax.*known are the functions.*relu.*blocks.*register"
    ):
        wp.materialise(model)
    with pytest.raises(wp.CertificateError, match="2: no Lipschitz constant is known for a LayerNorm"):
        wp.materialise(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4)).eval())


def test_the_network_is_apart_from_the_module():
    torch.manual_seed(0)
    model = nn.Sequential(wp.LBEN(5, 6), nn.Linear(6, 3)).eval()
    network, x = wp.materialise(model), testing.rand(4, 5)
    before, digest = network(x), network.digest
    assert torch.equal(before, model(x))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(network(x), before)
    assert network.digest == digest == wp.materialise(network).digest
    assert wp.materialise(model).digest != digest
    with pytest.raises(wp.CertificateError, match="never changes"):
        network.blocks = ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_runs_in_its_own_precision_and_exactly(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(wp.OrthogonalDEQ(5, 6), wp.Sandwich(6, 4), wp.NEMON(4, 6), nn.Linear(6, 3)).to(dtype).eval()
    network, x = wp.materialise(model), testing.rand(7, 5, dtype=dtype)
    assert network.dtype == dtype and network(x).dtype == dtype
    exact = network.exact
    assert exact.dtype == torch.float64 and exact.exact.digest == exact.digest
    found, near = exact.bounded(x.double()), network.bounded(x)
    away = (found.logits - near.logits.double()).norm(dim=1)
    assert bool((away <= near.error + found.error).all()), "the copy in float64 has other numbers"
    with pytest.raises(wp.InputError, match="dtype"):
        network(x.to(torch.float32 if dtype == torch.float64 else torch.float64))


CHANGES = {
    "weight": lambda m: m[3].weight.data.mul_(2.0), "bias": lambda m: m[3].bias.data.add_(1.0),
    "eps": lambda m: setattr(m[1], "eps", 0.1), "statistics": lambda m: m[1].running_var.mul_(2.0),
    "free parameter": lambda m: m[2].constraint.A.data.mul_(2.0),
    "strong monotonicity": lambda m: setattr(m[2].constraint, "m", 3.0),
    "activation": lambda m: setattr(m[2], "activation", wp.activation("tanh")), "order": lambda m: m.insert(1, m.pop(0)),
    "tolerance": lambda m: setattr(m[2], "tolerance", type(m[2].tolerance)(1e-2, 1e-2)),
    "a block more": lambda m: m.append(nn.Tanh()), "mode": lambda m: m.train(),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_certificate_tells_the_changed_model_from_its_own(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), wp.MonDEQ(5, 5), nn.Linear(5, 3)).eval()
    certificate = wp.certify(model)
    assert certificate.is_about(model) and certificate.is_about(copy.deepcopy(model))
    CHANGES[name](model)
    assert not certificate.is_about(model)


@pytest.mark.parametrize(
    "name", ["forward", "state", "solve", "readout", "materialise", "_run", "_checked_offset", "operator"]
)
def test_replaced_methods_are_refused_on_the_object_and_on_the_class(name, monkeypatch):
    model = nn.Sequential(wp.MonDEQ(5, 6), nn.Linear(6, 3)).eval()
    with monkeypatch.context() as patch:
        owner = next(kind for kind in type(model[0]).__mro__ if name in vars(kind))
        patch.setattr(owner, name, lambda *args: None)
        with pytest.raises(wp.CertificateError, match=f"{name}.*was replaced"):
            wp.materialise(model)
    wp.materialise(model)
    setattr(model[0], name, getattr(model[0], name))
    with pytest.raises(wp.CertificateError, match=f"0.{name}.*replaces"):
        wp.materialise(model)


def test_hooks_anywhere_are_refused():
    for place in ((lambda m: m), (lambda m: m[0]), (lambda m: m[0].injection), (lambda m: m[0].constraint)):
        for register in ("register_forward_hook", "register_forward_pre_hook"):
            model = nn.Sequential(wp.MonDEQ(5, 6), nn.Linear(6, 3)).eval()
            getattr(place(model), register)(lambda *args: None)
            with pytest.raises(wp.CertificateError, match="hooks"):
                wp.materialise(model)
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        with pytest.raises(wp.CertificateError, match="hooks for all modules"):
            wp.materialise(nn.Sequential(nn.Linear(5, 6)))
    finally:
        handle.remove()


def test_parametrisations_of_torch_are_stored_and_others_refused():
    from torch.nn.utils import parametrizations, parametrize

    torch.manual_seed(0)
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(5, 6)), wp.MonDEQ(6, 6), parametrizations.orthogonal(nn.Linear(6, 3))
    )
    parametrizations.spectral_norm(model[1].injection)
    model = model.double().eval()
    certificate = certified(model, (5,))
    assert type(certificate.network.blocks[0].module) is nn.Linear
    assert parametrize.is_parametrized(model[0]), "the model itself must stay what it is"
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(3.0)
    assert not certificate.is_about(model)

    class Larger(nn.Module):
        def forward(self, weight):
            return 10.0 * weight

    parametrize.register_parametrization(model[2], "weight", Larger())
    with pytest.raises(wp.CertificateError, match=r"2.weight: has a parametrisation Larger"):
        wp.materialise(model)


def test_settings_that_round_more_are_refused_when_it_runs():
    network, x = wp.materialise(nn.Sequential(wp.MonDEQ(5, 6), nn.Linear(6, 3)).eval()), testing.rand(3, 5)
    certificate = wp.certify(network)
    with torch.autocast("cpu", torch.bfloat16):
        labels = testing.zeros(3, dtype=torch.int64)
        for run in (network, network.bounded, lambda v: certificate.evaluate(v, labels), lambda v: wp.certify(network)):
            with pytest.raises(wp.CertificateError, match="autocast"):
                run(x)
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(wp.CertificateError, match="float32_matmul_precision"):
            network(x)
    finally:
        torch.set_float32_matmul_precision("highest")
    network(x)


@pytest.mark.float32
def test_inputs_that_do_not_fit_are_refused():
    model = nn.Sequential(wp.Normalize((0.0,) * 3, (1.0,) * 3), nn.Flatten(), nn.Linear(48, 2)).eval()
    network = wp.materialise(model)
    assert network.output_shape((3, 4, 4)) == (2,)
    labels = testing.zeros(2, dtype=torch.int64)
    for x in (
        testing.rand(2, 1, 4, 4),
        testing.rand(2, 48),
        testing.rand(2, 3, 4, 5),
        testing.rand(2, 3, 4, 4).double(),
    ):
        with pytest.raises(wp.InputError, match="x:"):
            wp.certify(model).evaluate(x, labels)
        with pytest.raises(wp.InputError, match="inputs:"):
            wp.certify(model, inputs=x[:, :1])
    for x in ([[1.0]], None, testing.rand(2, 3, 4, 4).numpy()):
        with pytest.raises(wp.InputError, match="x: is a"):
            bounded_logits(model, x)
    for wrong in (
        [0, 1],
        testing.zeros(2),
        testing.zeros(3, dtype=torch.int64),
        testing.tensor([0, 2]),
        testing.zeros(2, dtype=torch.bool),
    ):
        with pytest.raises(wp.InputError, match="labels"):
            wp.certify(model).evaluate(testing.rand(2, 3, 4, 4), wrong)
    with pytest.raises(wp.InputError, match="input_shape"):
        wp.materialise(model, (3, 0, 4))
    with pytest.raises(wp.InputError, match="do not fit|does not take"):
        wp.materialise(model, (3, 4, 5))
    assert wp.materialise(model, (3, 4, 4)).input_shape == (3, 4, 4)
    with pytest.raises(wp.InputError, match="model: is a str"):
        wp.materialise("model")


@pytest.mark.float32
def test_constants_of_other_precisions_and_shapes_are_refused():
    class Wide(nn.Module):
        def __init__(self, constant):
            super().__init__()
            self.constant = constant

        def forward(self, x):
            return x + self.constant

    with pytest.raises(wp.CertificateError, match="convert one"):
        wp.materialise(nn.Sequential(Wide(testing.ones(4, dtype=torch.float64)), nn.Linear(4, 2)).eval())
    with pytest.raises(wp.CertificateError, match="NaN or infinity"):
        wp.materialise(nn.Sequential(Wide(testing.tensor([1.0, torch.nan])), nn.Linear(2, 2)).eval())
    network = wp.materialise(nn.Sequential(Wide(testing.ones(3, 1, 1)), nn.Flatten(), nn.Linear(48, 2)).eval())
    with pytest.raises(wp.InputError, match="blow"):
        network(testing.rand(2, 1, 4, 4))


def test_activations_of_ones_own_need_ones_word():
    mine = Smooth("mine", lambda v: 0.5 * torch.tanh(v), lambda v: 0.5 * (1 - torch.tanh(v) ** 2), None, (0.0, 0.5))
    model = nn.Sequential(wp.MonDEQ(4, 4, activation=mine, dtype=torch.float64)).eval()
    with pytest.raises(wp.CertificateError, match="is not the activation of that name"):
        wp.materialise(model)
    liar = Smooth("tanh", lambda v: 9.0 * torch.tanh(v), torch.ones_like)
    with pytest.raises(wp.CertificateError, match="is not the activation of that name"):
        wp.materialise(nn.Sequential(wp.MonDEQ(4, 4, activation=liar)).eval())


def test_layers_of_ones_own_need_ones_word():
    class Mine(wp.MonDEQ):
        def lipschitz(self):
            return 2.0 * super().lipschitz()[0], "on my word"

    model = nn.Sequential(Mine(4, 5), nn.Linear(5, 3)).eval()
    with pytest.raises(wp.CertificateError, match="register"):
        wp.certify(model)
    assert wp.register(Mine) is Mine
    certificate = wp.certify(model, method="product")
    assert certificate.factors[0].reason == "on my word"
    Mine.lipschitz = lambda self: (0.0, "changed later")
    with pytest.raises(wp.CertificateError, match="lipschitz was replaced"):
        wp.certify(model)
    with pytest.raises(wp.InputError, match="kind="):
        wp.register("Mine")


def test_classes_that_add_only_their_arguments_are_what_they_inherit_from():
    class Small(wp.MonDEQ):
        """Of one size."""

        def __init__(self):
            super().__init__(4, 5, m=2.0)

    class Louder(Small):
        def state(self, x):
            return 2.0 * super().state(x)

    torch.manual_seed(0)
    small = nn.Sequential(Small(), nn.Linear(5, 3)).double().eval()
    certificate = certified(small, (4,))
    assert type(certificate.network.blocks[0].module) is wp.MonDEQ and type(small[0]) is Small
    with pytest.raises(wp.CertificateError, match="known for a Louder"):
        wp.certify(nn.Sequential(Louder(), nn.Linear(5, 3)).eval())


@wp.register
class Counted(Monotone):
    """How often W is formed."""

    formed = 0

    def materialise(self):
        Counted.formed += 1
        return super().materialise()


def test_certifying_forms_the_state_map_once():
    model = nn.Sequential(nn.Flatten(), wp.Equilibrium(nn.Linear(6, 5), Counted(5, 1.0)), nn.Linear(5, 3)).eval()
    network = wp.materialise(model)
    Counted.formed = 0
    certificate = wp.certify(network)
    certificate.evaluate(testing.rand(4, 6), testing.zeros(4, dtype=torch.int64))
    assert certificate.check() and Counted.formed == 0
    wp.certify(wp.materialise(nn.Sequential(model[1])))
    Counted.formed = 0
    gated(model)
    assert Counted.formed == 1


@pytest.mark.float32
def test_a_network_has_one_short_line():
    model = nn.Sequential(nn.Flatten(), wp.MonDEQ(4, 5), nn.Linear(5, 3)).eval()
    assert repr(wp.materialise(model)).startswith("Network(Flatten → MonDEQ → Linear; float32")
    certificate = wp.certify(model)
    assert (
        certificate == certificate and certificate == wp.certify(model) and certificate != wp.certify(model, norm="inf")
    )
    assert repr(certificate).startswith("Certificate(norm 2: at most ") and "\n" not in repr(certificate)
