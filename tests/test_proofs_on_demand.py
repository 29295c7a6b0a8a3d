"""Training steps prove nothing; solves in evaluation prove once for the same weights; weights are formed once."""

import sys

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.numerics import convolution_norms, verified

FAMILIES = {
    "MonDEQ": lambda: wp.MonDEQ(5, 8),
    "LBEN": lambda: wp.LBEN(5, 8),
    "NEMON": lambda: wp.NEMON(5, 8),
    "NEMON of any slopes": lambda: wp.NEMON(5, 8, activation="gelu"),
    "PcDEQ": lambda: wp.PcDEQ(5, 8),
    "ConvMonDEQ": lambda: wp.ConvMonDEQ(1, 4, (6, 6)),
    "MultiScaleMonDEQ": lambda: wp.MultiScaleMonDEQ(1, (3, 2), (6, 6)),
    "ConvLBEN": lambda: wp.ConvLBEN(1, 4, (6, 6)),
    "ConvNEMON": lambda: wp.ConvNEMON(1, 4, (6, 6)),
    "ConvPcDEQ": lambda: wp.ConvPcDEQ(1, 4, (6, 6)),
    "OrthogonalDEQ": lambda: wp.OrthogonalDEQ(5, 8),
    "ConvOrthogonalDEQ": lambda: wp.ConvOrthogonalDEQ(2, 4, (6, 6)),
}
# Where proofs are made: what all of them come down to, wherever it was imported from.
_MAJORANTS, _BELOW = (sys.modules[f"wellposed.guarantee.{name}"] for name in ("majorant", "subsolution"))
PROOFS = (
    (verified, "symmetric_part_lower_bound"), (verified, "spectral_norm_upper_bound"), (verified, "is_positive_semidefinite"),
    (convolution_norms, "least_eigenvalues"), (convolution_norms, "largest_singular_value"), (_MAJORANTS, "majorant"),
    (_BELOW, "subsolution"), (_BELOW, "below"),
)  # fmt: skip


@pytest.fixture
def proofs(monkeypatch):
    """The names of the proofs that were made so far."""

    made = []
    for module, name in PROOFS:
        original = getattr(module, name)

        def counted(*args, original=original, name=name, **options):
            made.append(name)
            return original(*args, **options)

        for loaded in [m for key, m in sys.modules.items() if key.startswith("wellposed")]:
            if getattr(loaded, name, None) is original:
                monkeypatch.setattr(loaded, name, counted)
    return made


@pytest.mark.float32
@pytest.mark.parametrize("family", FAMILIES)
def test_training_steps_prove_nothing(family, proofs):
    layer = FAMILIES[family]()
    x = testing.rand(3, *layer.input_shape)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    assert not proofs
    layer.solve(x)
    assert proofs or family == "MonDEQ"  # whose constant is known by construction, its rounding included


@pytest.mark.float32
@pytest.mark.parametrize("family", [wp.MonDEQ, wp.LBEN, wp.NEMON, wp.PcDEQ])
def test_a_value_is_proved_by_one_product(family):
    """In float64 there are U x and one product with W, whatever the number of steps; they look once, when the proof succeeds."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        products = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            product = func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            self.products += product and args[0].dtype == torch.float64
            return func(*args, **(kwargs or {}))

    layer, x = family(30, 40).eval(), testing.rand(16, 30)
    exact = family(30, 40, dtype=torch.float64, rtol=1e-12, atol=1e-12)
    exact.load_state_dict(layer.state_dict())
    with torch.no_grad():
        layer.solve(x)
        with Count() as count:
            found = layer.solve(x)
        distance = (found.value.double() - exact(x.double())).norm(dim=1)
    assert count.products == 2
    assert found.converged.all()
    assert (distance <= found.error_bound + 1e-10).all()
    assert (found.error_bound <= 2.5e-5 * (1.0 + found.value.norm(dim=1))).all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if "Orthogonal" not in name])
def test_a_size_bounds_no_less_than_the_entries_of_that_size(family):
    layer = FAMILIES[family]().double()
    if family == "ConvLBEN":
        layer.constraint.psi.data.copy_(testing.randn(*layer.constraint.psi.shape, dtype=torch.float64))
    with torch.no_grad():
        operator, guarantee = layer.materialise()
        for promise in (guarantee, guarantee.linearised().on(operator.transpose())):
            defect = 1e-3 * testing.randn(4, *layer.state_shape, dtype=torch.float64)
            size = defect.flatten(1).norm(dim=1)
            assert (promise.size_bound(defect, size) >= promise.defect_bound(defect, size) * (1.0 - 1e-12)).all()
            small = torch.full_like(size, 1e-6)  # for all offsets of which anything is known
            torch.testing.assert_close(
                promise.size_factor(defect) * small, promise.size_bound(defect, small), atol=0.0, rtol=1e-7
            )


@pytest.mark.parametrize("activation", ["tanh", "softsign", "sigmoid"])
def test_the_size_of_a_step_bounds_no_less_than_its_entries(activation):
    """And is attained: a step along the first singular vector of MW is multiplied by its norm."""
    layer = wp.PcDEQ(6, 9, activation=activation, dtype=torch.float64)
    with torch.no_grad():
        operator, promise = layer.materialise()
    along = torch.linalg.svd(promise.sensitivity @ operator.dense())[2][0].abs()
    steps = 1e-5 * torch.stack((along, *testing.randn(7, 9, dtype=torch.float64)))
    size, nothing = steps.norm(dim=1), torch.zeros(8, dtype=torch.float64)
    bound, entries = promise.step_bound(size, nothing), promise.defect_bound(operator.apply(steps), nothing)
    assert (bound >= entries * (1.0 - 1e-12)).all()
    torch.testing.assert_close(bound[0], entries[0], rtol=1e-6, atol=0.0)
    largest = promise.step_bound(1e6 * size, nothing)  # beyond the offsets for which anything is known
    assert (largest >= 1e6 * entries).all()


@pytest.mark.float32
@pytest.mark.parametrize("activation", ["tanh", "softsign", "sigmoid"])
@pytest.mark.parametrize("size", [0.05, 0.3, 1.0])
def test_values_of_positive_concave_layers_are_within_their_bounds(activation, size):
    """From below, as by default, and from above, where what is foreseen lies below the iterates."""
    layer, x = wp.PcDEQ(12, 20, activation=activation).eval(), testing.rand(40, 12)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(size / 0.3)
    exact = wp.PcDEQ(12, 20, activation=activation, dtype=torch.float64, rtol=1e-13, atol=1e-13)
    exact.load_state_dict(layer.state_dict())
    with torch.no_grad():
        true = exact(x.double())
        for start in (None, torch.full((40, 20), 30.0)):
            found = layer.solve(x, z0=start)
            distance = (found.value.double() - true).norm(dim=1)
            assert found.converged.all()
            assert (distance <= found.error_bound + 1e-12 * true.norm(dim=1)).all()
            assert (found.error_bound <= 2.5e-5 * (1.0 + true.norm(dim=1))).all()


@pytest.mark.float32
@pytest.mark.parametrize("family", [name for name in FAMILIES if "Orthogonal" not in name])
def test_solves_prove_once_for_the_same_weights(family, proofs):
    layer = FAMILIES[family]().eval()
    x = testing.rand(3, *layer.input_shape)
    with torch.no_grad():
        first = layer.solve(x)
        count = len(proofs)
        second = layer.solve(x)
    assert proofs[count:] == []
    assert torch.equal(first.value, second.value)


def change_by_copy(parameter):
    with torch.no_grad():
        parameter.copy_(0.5 * parameter)


def change_by_data(parameter):
    parameter.data.mul_(0.5)


def change_by_optimizer(parameter):
    parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD([parameter], lr=0.1).step()
    parameter.grad = None


@pytest.mark.parametrize("change", [change_by_copy, change_by_data, change_by_optimizer])
@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("make", [FAMILIES["OrthogonalDEQ"], FAMILIES["ConvOrthogonalDEQ"], FAMILIES["ConvMonDEQ"]])
def test_changed_weights_are_formed_again(make, change, tracked):
    layer = make()
    x = testing.rand(3, *layer.input_shape)
    with torch.set_grad_enabled(tracked):
        before = layer(x), layer(x)
        for parameter in layer.parameters():
            change(parameter)
        after = layer(x)
        fresh = make()
        fresh.load_state_dict(layer.state_dict())
        expected = fresh(x)
    assert torch.equal(*before)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(after, before[0], rtol=1e-3)


@pytest.mark.parametrize(
    "make",
    [FAMILIES["OrthogonalDEQ"], FAMILIES["ConvMonDEQ"], lambda: wp.OrthogonalDEQ(5, 8, parametrisation="bjorck")],
)
def test_recalled_weights_have_the_gradients_of_formed_ones(make):
    layer = make()
    x = testing.rand(3, *layer.input_shape)
    found = [torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())) for _ in range(2)]
    for formed, recalled in zip(*found, strict=True):
        torch.testing.assert_close(formed, recalled)


@pytest.mark.parametrize("parametrisation", ["cayley", "bjorck", "exponential"])
def test_recalled_weights_have_second_derivatives(parametrisation):
    part = OrthogonalLinear(3, 3, parametrisation=parametrisation, dtype=torch.float64)
    free = (part.free.detach() + 0.1 * testing.randn(3, 3).double()).requires_grad_()
    x = torch.eye(3, dtype=torch.float64)

    def value(free):
        torch.func.functional_call(part, {"free": free.detach()}, x)  # these numbers are known from now on
        return torch.func.functional_call(part, {"free": free}, x)

    assert torch.autograd.gradcheck(value, (free,))
    assert torch.autograd.gradgradcheck(value, (free,))


RELU_LAYERS = {
    "MonDEQ": lambda: wp.MonDEQ(5, 8),
    "MonDEQ of a small margin": lambda: wp.MonDEQ(5, 8, m=0.05),
    "LBEN": lambda: wp.LBEN(5, 8),
    "NEMON": lambda: wp.NEMON(5, 8),
}


@pytest.mark.float32
@pytest.mark.parametrize("family", RELU_LAYERS)
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_one_evaluation_proves_bounds_that_hold(family, size):
    layer = RELU_LAYERS[family]().eval()
    x = size * testing.randn(300, 5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(size)
        solution, sharp = layer.solve(x), layer.sharpened(x)
        matrix = layer.operator().dense().double()
        weight, bias = layer.injection.weight.double(), layer.injection.bias.double()
    offset = x.double() @ weight.t() + bias
    # The equilibrium of these numbers by its pattern, which is right where the equation holds.
    slopes = (sharp.value > 0).double()
    true = torch.linalg.solve(torch.eye(8).double() - slopes[:, :, None] * matrix, (slopes * offset)[:, :, None])[
        :, :, 0
    ]
    right = (torch.relu(true @ matrix.t() + offset) - true).norm(dim=1) < 1e-12 * (1.0 + true.norm(dim=1))
    assert right.sum() > 250
    rtol, atol = layer.limits()
    for found in (solution, sharp):
        assert found.converged.all()
        away = (found.value.double() - true).norm(dim=1)
        assert (away <= found.error_bound + 1e-11 * (1.0 + true.norm(dim=1)))[right].all()
        assert (found.error_bound <= atol + 1.0001 * rtol * found.value.norm(dim=1) + 1e-30).all()
        assert (away > 0.0).any()


@pytest.mark.float32
def test_values_without_a_graph_are_about_the_weights_where_the_input_map_was_changed():
    def louder(module, given, found):
        return 2.0 * found

    x = testing.randn(4, 5)
    for change in ("hook", "instance", "class"):
        layer = wp.MonDEQ(5, 8).eval()
        if change == "hook":
            layer.injection.register_forward_hook(louder)
        elif change == "instance":
            layer.injection.forward = lambda given: torch.ones(4, 8)
        else:

            class Louder(type(layer.injection)):
                def forward(self, given):
                    return 2.0 * super().forward(given)

            layer.injection.__class__ = Louder
        assert not layer.injection.computes_numbers
        with torch.no_grad(), pytest.raises(wp.CertificateError, match="something else"):
            layer.solve(x)
    assert wp.MonDEQ(5, 8).injection.computes_numbers


@pytest.mark.float32
@pytest.mark.parametrize("family", [name for name in FAMILIES if "Orthogonal" not in name and "slopes" not in name])
def test_large_batches_are_proved_a_few_samples_at_a_time(family, monkeypatch):
    """As they are in one piece; bounds are never below the errors, by a solve in float64."""
    from wellposed.solvers import proof

    layer = FAMILIES[family]().eval()
    exact = FAMILIES[family]().double().eval()
    exact.load_state_dict(layer.state_dict())
    exact.tolerance = type(exact.tolerance)(1e-11, 1e-11)
    x = testing.rand(7, *layer.input_shape) * torch.linspace(0.1, 3.0, 7).reshape(-1, *[1] * len(layer.input_shape))
    with torch.no_grad():
        whole, true = layer.solve(x), exact.solve(x.double()).value
        judged = []
        for name in ("_errors", "_stepped"):
            original = getattr(proof.Proof, name)

            def counted(part, states, *args, original=original):
                judged.append(len(states))
                return original(part, states, *args)

            monkeypatch.setattr(proof.Proof, name, counted)
        monkeypatch.setattr(proof, "_PART", 2 * layer.solve(x).value[0].numel())
        judged.clear()
        found = layer.solve(x)
    assert judged[:4] == [2, 2, 2, 1]
    assert found.converged.all() and whole.converged.all()
    torch.testing.assert_close(found.value, whole.value, rtol=1e-5, atol=1e-6)
    assert ((found.value.double() - true).flatten(1).norm(dim=1) <= found.error_bound + 1e-9).all()
    assert (found.error_bound <= 1.5 * whole.error_bound + 1e-9).all()
