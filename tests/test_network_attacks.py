"""What would make a network another one than its model, or change the model: seen, refused, or read rightly."""

from __future__ import annotations

import copy
import pickle
import types
from fractions import Fraction

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.bounds.product import pair_constants
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.operators import Dense

DOUBLE = torch.float64


def graphs(head):
    torch.manual_seed(0)
    options = {"variant": "lipschitz", "kappa": 1.0, "omega": 0.4, "activation": "group_sort", "dtype": DOUBLE}
    return GraphClassifier((wp.ImplicitGraph(3, 4, **options), NodeSum(by_root=True)), head).eval()


def linear(inputs=4, outputs=3):
    return nn.Linear(inputs, outputs, dtype=DOUBLE)


class Asking(nn.Module):
    """A forward that computes something else where it is not followed."""

    def __init__(self):
        super().__init__()
        self.l, self.calls, self.cache = linear(), 0, []

    def forward(self, x):
        return (10.0 if self.other(x) else 1.0) * self.l(x)


ASKING = {
    "isinstance": lambda self, x: isinstance(x, torch.Tensor) and x.abs().amax() > 4,
    "is_tensor": lambda self, x: torch.is_tensor(x) and x.abs().amax() > 4,
    "type": lambda self, x: type(x) is torch.Tensor and x.abs().amax() > 4,
    "hasattr": lambda self, x: not hasattr(x, "node") and x.abs().amax() > 4,
    "repr": lambda self, x: "e+0" in repr(x),
    "format": lambda self, x: "e+0" in f"{x}",
    "inference mode": lambda self, x: torch.is_inference_mode_enabled(),
    "gradient mode": lambda self, x: torch.is_grad_enabled(),
    "counter": lambda self, x: setattr(self, "calls", self.calls + 1) or self.calls > 12,
    "cache": lambda self, x: self.cache.append(1) or len(self.cache) > 12,
    "length": lambda self, x: swallowed(lambda: len(x)) == 7,
    "loop": lambda self, x: swallowed(lambda: sum(1 for _ in x)) == 7,
    "truth": lambda self, x: swallowed(lambda: bool(x.sum() > 0)) is True,
}


def swallowed(function):
    try:
        return function()
    except Exception:
        return None


@pytest.mark.parametrize("name", ASKING)
def test_a_forward_that_asks_what_it_is_given_is_refused(name):
    model = Asking().eval()
    Asking.other = ASKING[name]
    with pytest.raises(wp.CertificateError):
        wp.certify(model)


def replaced_inner_forward():
    model = nn.Sequential(nn.Sequential(linear()), nn.ReLU())
    model[0].forward = types.MethodType(lambda self, x: 10.0 * self[0](x), model[0])
    return model


def replaced_graph_head():
    head = nn.Sequential(linear())
    before = head.forward
    head.forward = lambda x: 10.0 * before(x)
    return graphs(head)


class Copied(nn.Linear):
    def __deepcopy__(self, memory):
        return nn.Linear(4, 3)


class Found(nn.Linear):
    def __getattribute__(self, name):
        return (lambda x: x) if name == "forward" else super().__getattribute__(name)


class Called(nn.Linear):
    def _call_impl(self, x):
        return 10.0 * super()._call_impl(x)


class Described(nn.Module):
    forward = property(lambda self: lambda x: x)


REPLACED = {
    "forward of a Sequential": replaced_inner_forward, "forward of a graph classifier's head": replaced_graph_head,
    "deepcopy": lambda: nn.Sequential(Copied(4, 3)), "getattribute": lambda: nn.Sequential(Found(4, 3)),
    "call": lambda: nn.Sequential(Called(4, 3)), "forward as a property": lambda: nn.Sequential(Described()),
    "script": lambda: torch.jit.trace(nn.Linear(4, 3), testing.rand(1, 4)), "meta": lambda: nn.Linear(4, 3, device="meta"),
    "no inputs": lambda: nn.Linear(0, 3), "no outputs": lambda: nn.Linear(3, 0),
    "indices": lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True)),
    "sorted across graphs": lambda: graphs(nn.Sequential(wp.GroupSort(2, -2), linear())),
    "taken apart across graphs": lambda: graphs(nn.Sequential(nn.Unflatten(-2, (-1, 2)), linear())),
    "another precision": lambda: graphs(nn.Linear(4, 3)),
}  # fmt: skip


@pytest.mark.float32
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REPLACED)
def test_models_that_are_not_what_they_seem_are_refused(name):
    model = REPLACED[name]()
    with pytest.raises(wp.WellposedError):
        wp.certify(model)


@pytest.mark.parametrize(
    ("owner", "name"), [(Dense, "dense"), (torch.Tensor, "flatten"), (nn.functional, "linear"), (torch, "tanh")]
)
def test_replaced_functions_are_seen(owner, name, monkeypatch):
    before = getattr(owner, name)
    model = nn.Sequential(nn.Flatten(), wp.MonDEQ(4, 3), nn.Tanh()).eval()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *args, **options: before(*args, **options))
        with pytest.raises(wp.CertificateError, match=f"{name}.*was replaced"):
            wp.certify(model)
    wp.certify(model)


def test_the_model_stays_what_it_was():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = linear()
            self.register_buffer("n", testing.zeros((), dtype=DOUBLE))

        def forward(self, x):
            if type(x) is torch.Tensor:
                self.n += 1.0
            torch.rand(1)
            return self.l(x)

    model = nn.Sequential(Changing(), wp.MonDEQ(3, 3, dtype=DOUBLE), nn.Dropout()).eval()
    model[1].train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, state = [part.training for part in model.modules()], torch.get_rng_state()
    with pytest.raises(wp.CertificateError):
        wp.certify(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert modes == [part.training for part in model.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_block_that_occurs_twice_behind_a_pooling_counts_twice():
    torch.manual_seed(0)
    inner = linear(4, 4)
    with torch.no_grad():
        inner.weight.mul_(60.0)
    model = graphs(nn.Sequential(inner, nn.ReLU(), inner))
    once = graphs(nn.Sequential(inner, nn.ReLU()))
    norm = float(torch.linalg.matrix_norm(inner.weight.detach(), 2))
    assert wp.certify(model).lipschitz == pytest.approx(norm * wp.certify(once).lipschitz, rel=1e-9)


def test_underflow_counts_in_radii():
    model = nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(4)]).eval()
    with torch.no_grad():
        for part, scale in zip(model, (1e-30, 1e-15, 1e25, 1e20), strict=True):
            part.weight.copy_(scale * testing.eye(3))
    x, near = testing.tensor([[2.0, 2.15, 0.1]]), testing.tensor([[2.12, 2.09, 0.1]])
    certificate, label = wp.certify(model, method="product"), model(x).argmax(1)
    found = certificate.network.bounded(x)
    exact = certificate.network.exact(x.double())
    assert float((found.logits.double() - exact).norm()) <= float(found.error)
    assert model(near).argmax(1) != label
    assert float(certificate.evaluate(x, label, forward=True)[0]) < float((near - x).norm())


def test_options_of_bounded_activations_are_those_that_run():
    torch.manual_seed(0)
    model = nn.Sequential(linear(), nn.ReLU6()).eval()
    model[1].max_val = 100.0
    certificate, x = wp.certify(model), 100.0 * testing.randn(7, 4, dtype=DOUBLE)
    assert torch.equal(certificate.network(x), model(x))
    model[1].max_val = 60.0
    assert not certificate.is_about(model)


def test_samples_must_stay_apart():
    model = (
        nn.Sequential(wp.Normalize((0.4, 0.5), (0.1, 4.0)), nn.Flatten(), wp.MonDEQ(16, 6), nn.Linear(6, 3))
        .double()
        .eval()
    )
    labels = testing.tensor([0, 1])
    with pytest.raises(wp.InputError, match="x:"):
        wp.certify(model).evaluate(testing.randn(2, 4, 4, dtype=DOUBLE), labels)
    with pytest.raises(wp.InputError, match="x:"):
        wp.certify(model).evaluate(testing.randn(2, 1, 2, 2, 4, dtype=DOUBLE), labels)
    images = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Flatten(), nn.Linear(16, 3)).double().eval()
    with pytest.raises(wp.InputError, match="x:"):
        wp.certify(images).evaluate(testing.randn(2, 4, 4, dtype=DOUBLE), labels)


def test_a_network_that_was_written_to_says_so():
    certificate = wp.certify(nn.Sequential(nn.Linear(4, 3)))
    certificate.network.blocks[0].module.weight.data.mul_(9.0)
    with pytest.raises(wp.CertificateError, match="blocks were changed"):
        certificate.evaluate(testing.rand(2, 4), testing.tensor([0, 1]))
    with pytest.raises(wp.CertificateError, match="never changes"):
        del certificate.network.blocks


def test_layers_that_compute_their_value_in_another_way_cannot_be_registered():
    class Tripled(wp.MonDEQ):
        def readout(self, state, x):
            return 3.0 * state

    with pytest.raises(wp.InputError, match="overrides readout"):
        wp.register(Tripled)


def test_numbers_of_registered_objects_are_a_part_of_the_digest():
    @wp.register
    class Slope(wp.Activation):
        def __init__(self, slope):
            self.slope_range = (0.0, slope)

        def __call__(self, value):
            return self.slope_range[1] * torch.relu(value)

        def derivative(self, value):
            return self.slope_range[1] * (value > 0).to(value)

    torch.manual_seed(0)
    models = [nn.Sequential(wp.MonDEQ(4, 5, activation=Slope(slope)), nn.Linear(5, 3)).eval() for slope in (0.5, 0.25)]
    models[1].load_state_dict(models[0].state_dict())
    assert not wp.certify(models[0]).is_about(models[1])


def test_the_same_weights_by_the_same_names_are_no_network():
    torch.manual_seed(0)
    model = nn.Sequential(wp.MonDEQ(4, 5), nn.Identity(), nn.Linear(5, 3)).eval()
    certificate = wp.certify(model)
    other = nn.Sequential(model[0], nn.Tanh(), model[2]).eval()
    assert certificate.is_about(model) and not certificate.is_about(other)
    with pytest.raises(wp.CertificateError, match="another network"):
        certificate.check(other)
    assert certificate.is_about(nn.Sequential(model)) and certificate.check(nn.Sequential(model))


def test_networks_and_certificates_can_be_kept():
    certificate = wp.certify(nn.Sequential(wp.MonDEQ(4, 5), nn.Linear(5, 3)).eval())
    x = testing.rand(3, 4)
    for again in (copy.deepcopy(certificate), pickle.loads(pickle.dumps(certificate))):
        assert again.check() and torch.equal(again.network(x), certificate.network(x))
        assert again.network.digest == certificate.network.digest


def test_margins_of_subnormal_heads_are_bounded():
    head = testing.tensor([[1e-318, 0.0], [0.0, 1.3e-318]], dtype=DOUBLE)
    first, second = (Fraction(float(entry)) for entry in (head[0, 0], head[1, 1]))
    square = (first**2 + second**2) * Fraction(1e300) ** 2
    assert Fraction(float(pair_constants(head, 1e300)[0, 1])) ** 2 >= square


def test_sums_count_underflow():
    class Twice(nn.Module):
        def forward(self, x):
            return x + x

    network = wp.materialise(nn.Sequential(Twice(), nn.Linear(3, 2)).eval(), (3,))
    assert float(network.bounded(testing.full((1, 3), 1e-39)).error) > 0.0


def test_logits_of_another_network_are_refused():
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    certificate, x, labels = wp.certify(model), testing.rand(2, 4), testing.tensor([0, 1])
    found = certificate.of(wp.materialise(model).bounded(x), labels)
    assert torch.equal(found, certificate.evaluate(x, labels))
    with torch.no_grad():
        model[0].weight.mul_(20.0)
    with pytest.raises(wp.InputError, match="another network"):
        certificate.of(wp.materialise(model).bounded(x), labels)


WRONG = {
    "nan": lambda c: c.network(testing.full((2, 4), torch.nan)), "sparse": lambda c: c.network(testing.rand(2, 4).to_sparse()),
    "complex": lambda c: c.network(testing.rand(2, 4, dtype=torch.complex64)), "one input": lambda c: c.network(testing.rand(4)),
    "batch size": lambda c: c.evaluate(testing.rand(2, 4), testing.tensor([0, 1]), batch_size=0),
    "method": lambda c: wp.certify(c.network, method=3), "norm": lambda c: wp.certify(c.network, norm="3"),
    "shape": lambda c: wp.materialise(nn.Linear(4, 3), 4), "layer": lambda c: wp.well_posedness("layer"),
    "no layer": lambda c: wp.well_posedness(nn.Linear(3, 3)), "graphs": lambda c: wp.certify(graphs(linear())).evaluate([1], [0]),
    "pool": lambda c: wp.certify(nn.Sequential(nn.AvgPool2d(2, stride=0))),
    "inputs": lambda c: wp.certify(c.network, inputs=testing.rand(0, 4)),
    "verified": lambda c: wp.verification.verifier_of(c.network).verify([1.0], 0, 0.1),
    "radius": lambda c: wp.verification.verifier_of(c.network).verify(testing.rand(4), 0, "a"),
    "range": lambda c: wp.verification.verifier_of(c.network, valid="a").verify(testing.rand(4), 0, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_gets_an_error_of_this_library(name):
    with pytest.raises(wp.WellposedError):
        WRONG[name](wp.certify(nn.Sequential(nn.Linear(4, 3)).eval()))


@pytest.mark.parametrize("image", [False, True])
def test_colour_normalisations_are_folded_into_the_best_metric(image, tmp_path):
    torch.manual_seed(0)
    front = wp.Normalize((0.5, 0.4, 0.3), (0.1, 0.5, 2.0))
    rest = (
        (wp.ConvMonDEQ(3, 4, (4, 4)), nn.Flatten(), nn.Linear(64, 3))
        if image
        else (nn.Flatten(), wp.MonDEQ(48, 8), nn.Linear(8, 3))
    )
    model = nn.Sequential(front, *rest).eval()
    certificate = wp.certify(model, inputs=testing.rand(8, 3, 4, 4))
    assert certificate.tail.place == 0 and certificate.check()
    apart = wp.certify(nn.Sequential(*rest).eval())
    assert certificate.lower_bound <= certificate.lipschitz < 0.8 * apart.lipschitz / float(front.std.min())
    if not image:
        assert certificate.lipschitz < 1.5 * certificate.lower_bound
