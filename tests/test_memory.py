"""`fixed_point` of functions that write into their state, give back one buffer, or share parameters."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing

SOLVERS = [wp.Picard(), wp.Averaged(0.7), wp.Anderson(), wp.Broyden(), wp.NewtonKrylov(), wp.Adaptive()]


def tensor(*shape):
    return testing.rand(*shape, dtype=torch.float64, generator=testing.generator(0))


def in_place(z):
    return z.mul_(0.5).add_(1.0)


def through_data(z):
    z.data.mul_(0.5).add_(1.0)
    return z


def view_of_itself(z):
    return z.mul_(0.5).add_(1.0).reshape(-1).reshape(z.shape)


def buffers(count):
    kept = [torch.empty(2, 3, dtype=torch.float64) for _ in range(count)]
    calls = iter(range(10**9))
    return lambda z: torch.add(z * 0.5, 1.0, out=kept[next(calls) % count])


WRITERS = [in_place, through_data, view_of_itself, buffers(1), buffers(2)]


@pytest.mark.parametrize("f", WRITERS)
@pytest.mark.parametrize("solver", SOLVERS[:4], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("inference", [False, True])
def test_solutions_are_right_and_nothing_of_the_caller_is_overwritten(f, solver, inference):
    start = tensor(2, 3)
    before = start.clone()
    with torch.inference_mode(inference), torch.no_grad():
        if inference:
            start = start.clone()
        found = wp.fixed_point(f, start, solver=solver, guarantee=wp.Contraction(0.5), rtol=1e-11, atol=1e-11)
        value = found.value.clone()
        f(testing.zeros(2, 3, dtype=torch.float64))  # a later call of the function does not change the solution
    assert torch.equal(start, before) and torch.equal(found.value, value)
    assert ((found.value - 2).norm(dim=1) <= found.error_bound).all()
    assert found.converged.all()


def test_one_step_is_not_the_start_overwritten():
    start = testing.full((2, 3), 7.0, dtype=torch.float64)
    with pytest.warns(wp.NotConvergedWarning):
        found = wp.fixed_point(in_place, start, solver=wp.Picard(), max_steps=1)
    torch.testing.assert_close(found.residual, testing.full((2,), 2.5 * 3**0.5, dtype=torch.float64))
    assert (start == 7.0).all() and (found.value == 4.5).all()


def test_tuples_of_states():
    def both(state):
        first, second = state
        first.mul_(0.5).add_(1.0)
        return first, second.mul_(0.25).add_(3.0)

    starts = tensor(2, 3), tensor(2, 2, 2)
    before = [start.clone() for start in starts]
    found = wp.fixed_point(both, starts, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.value[0], torch.full_like(found.value[0], 2.0))
    torch.testing.assert_close(found.value[1], torch.full_like(found.value[1], 4.0))
    assert all(torch.equal(start, kept) for start, kept in zip(starts, before, strict=True))


def test_the_value_is_not_the_memory_of_an_argument():
    q = tensor(2, 3)
    found = wp.fixed_point(lambda z, q: q, testing.zeros(2, 3, dtype=torch.float64), (q,), solver=wp.Picard())
    found.value.detach().add_(1.0)
    assert torch.equal(q, tensor(2, 3))


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [(solver, wp.Exact()) for solver in SOLVERS]
    + [(wp.Picard(), wp.Phantom(40, 0.9)), (wp.Picard(), wp.Unrolled()), (wp.Averaged(0.7), wp.Unrolled())],
)
def test_gradients_of_functions_that_write_into_their_state(solver, gradient):
    def f(z, q):
        return z.mul_(0.4).add_(q).tanh_()

    q = tensor(2, 3).requires_grad_()
    options = {"solver": solver, "rtol": 1e-12, "atol": 1e-12}
    value = wp.fixed_point(f, testing.zeros(2, 3, dtype=torch.float64), (q,), gradient=gradient, **options).value
    found = torch.autograd.grad(value.square().sum(), q)[0]
    z = value.detach()
    expected = 2 * z * (1 - z**2) / (1 - 0.4 * (1 - z**2))  # by hand
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    if isinstance(gradient, wp.Exact):
        twice = torch.autograd.functional.hessian(
            lambda p: wp.fixed_point(f, torch.zeros_like(z), (p,), **options).value.sum(), q.detach()
        )
        slope = (1 - z**2) / (1 - 0.4 * (1 - z**2))
        second = -2 * z * slope / (1 - 0.4 * (1 - z**2)) ** 2
        torch.testing.assert_close(twice.reshape(6, 6).diagonal(), second.flatten(), rtol=1e-6, atol=1e-8)


def test_gradients_through_a_buffer():
    kept = torch.empty(2, 3, dtype=torch.float64)
    q = tensor(2, 3).requires_grad_()
    value = wp.fixed_point(lambda z, q: torch.add(0.5 * z, q, out=kept), torch.zeros_like(q), (q,)).value
    with pytest.raises(wp.InputError, match="out="):
        value.sum().backward()


def test_arguments_that_are_written_into_are_refused():
    q = tensor(2, 3)
    with pytest.raises(wp.InputError, match=r"writes into a tensor of shape \(2, 3\)"):
        wp.fixed_point(lambda z, q: 0.5 * z + q.mul_(1.0), torch.zeros_like(q), (q,))
    calls = iter(range(1000))

    def sometimes(z):
        return z.mul_(0.5).add_(1.0) if next(calls) > 4 else 0.5 * z + 1.0

    with pytest.raises(wp.InputError, match="in some calls only"):
        wp.fixed_point(sometimes, torch.zeros_like(q), solver=wp.Picard())


def test_nothing_is_copied_without_need(monkeypatch):
    copies = 0
    clone = torch.Tensor.clone

    def counted(self, *args, **options):
        nonlocal copies
        copies += self.shape == (7, 11)
        return clone(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "clone", counted)
    found = wp.fixed_point(
        lambda z: 0.9 * torch.cos(z),
        testing.zeros(7, 11, dtype=torch.float64),
        solver=wp.Picard(),
        rtol=1e-12,
        atol=1e-12,
    )
    assert int(found.steps.max()) >= 40 and copies <= 3


class SharedPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a

    def forward(self, z):
        return torch.tanh(0.3 * self.a(z) + 0.3 * self.b(z) + 1)


class TiedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.b.weight = self.a.weight
        self.c.eval()

    def forward(self, z):
        return torch.tanh(0.3 * self.a(z) + 0.3 * self.b(self.c(z)) + 1)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.ModuleList([SharedPart()])
        self.rows.append(self.rows[0])

    def forward(self, z):
        return 0.5 * self.rows[0](z) + 0.5 * self.rows[1].b(z).tanh()


@pytest.mark.parametrize("make", [SharedPart, TiedWeight, Nested])
def test_shared_parameters_stay_and_get_their_whole_gradient(make):
    torch.manual_seed(0)
    module = make().double()
    stored = {name: dict(part._parameters) for name, part in module.named_modules()}
    buffers_before = {name: (value, value.clone()) for name, value in module.named_buffers()}
    wp.fixed_point(module, testing.zeros(4, 3).double(), rtol=1e-13, atol=1e-13).value.square().sum().backward()
    found = [parameter.grad.clone() for parameter in module.parameters()]
    for name, part in module.named_modules():
        assert all(part._parameters[own] is parameter for own, parameter in stored[name].items())
    assert all(value is old and torch.equal(value, kept) for value, (old, kept) in zip(
        dict(module.named_buffers()).values(), buffers_before.values(), strict=True))  # fmt: skip
    z = testing.zeros(4, 3).double()
    for _ in range(200):
        z = module(z)
    expected = torch.autograd.grad(z.square().sum(), list(module.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", [SharedPart, TiedWeight])
def test_parameters_stay_where_the_module_raises(make):
    class Breaks(make):
        def forward(self, z):
            super().forward(z)
            raise ValueError("broken")

    module = Breaks()
    parameters = list(module.parameters())
    with pytest.raises(ValueError, match="broken"):
        wp.fixed_point(module, testing.zeros(4, 3))
    assert all(one is other for one, other in zip(parameters, module.parameters(), strict=True))
    assert module.b.weight is module.a.weight


def test_draws_of_weights_leave_shared_parts_alone():
    pytest.importorskip("lightning")
    from wellposed.training.posterior import Posterior

    torch.manual_seed(0)
    model = SharedPart()
    weight = model.a.weight
    posterior = Posterior(model, 0.1)
    drawn = posterior.draw()
    value = posterior.logits(drawn, testing.ones(2, 3))
    through = testing.ones(2, 3) @ drawn["a.weight"].T + drawn["a.bias"]
    torch.testing.assert_close(value, torch.tanh(0.6 * through + 1))
    assert model.a.weight is weight and model.b.weight is weight


def kept_bytes(compute):
    """Bytes of the distinct memory that autograd saves during a call, and the call's result."""
    seen = {}

    def pack(kept):
        seen[kept.untyped_storage().data_ptr()] = kept.untyped_storage().nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        result = compute()
    return sum(seen.values()), result


@pytest.mark.parametrize("solver", [wp.Picard(), wp.Anderson(), None], ids=str)
def test_what_is_kept_for_the_backward_pass_is_one_evaluation_whatever_the_iterations(solver):
    generator = testing.generator(0)
    weight = 0.1 * testing.randn(40, 40, generator=generator)
    offset = testing.randn(50, 40, generator=generator)
    weight, offset = weight.requires_grad_(), offset.requires_grad_()

    def f(z, weight, offset):
        return torch.tanh(torch.tanh(z @ weight.T) @ weight + offset)

    state = testing.zeros(50, 40).requires_grad_()
    one, _ = kept_bytes(lambda: f(state, weight, offset))

    def solved(rtol):
        return wp.fixed_point(f, testing.zeros(50, 40), (weight, offset), rtol=rtol, solver=solver)

    steps, sizes = [], []
    for rtol in (1e-2, 1e-6):
        size, found = kept_bytes(functools.partial(solved, rtol))
        steps.append(int(found.steps.max()))
        sizes.append(size)
    assert steps[1] >= steps[0] + 3
    # The default keeps no evaluation where it came to acceleration.
    assert sizes[0] == sizes[1] or (solver is None and sizes[1] < sizes[0])
    assert sizes[0] <= 1.3 * (one + offset.nbytes)  # f's graph, and the value


@pytest.mark.parametrize("make", [wp.MonDEQ, wp.NEMON, wp.PcDEQ])
def test_layers_keep_the_offset_the_value_and_what_is_as_large_as_the_weights(make):
    torch.manual_seed(0)
    x, sizes, steps = testing.rand(64, 30), [], []
    for rtol in (1e-2, 1e-6):
        torch.manual_seed(0)
        layer = make(30, 40, rtol=rtol, atol=0.0)
        size, found = kept_bytes(lambda layer=layer: layer._run(x, None, certified=False))
        sizes.append(size)
        steps.append(int(found[1].steps.max()))
    weights = sum(part.nbytes for part in layer.parameters())
    assert steps[1] > steps[0]
    assert sizes[0] == sizes[1] <= 1.3 * (x.nbytes + 2 * found[0].nbytes + 2 * weights)


def failing_with_a_graph(message):
    def f(z, q):
        if z.requires_grad:
            raise RuntimeError(message)
        return 0.5 * z + q

    return f


def test_faults_of_a_map_are_heard_and_only_missing_derivatives_wait_for_the_backward_pass():
    q = tensor(2, 3).requires_grad_()
    options = {"solver": wp.Picard(), "rtol": 1e-9, "atol": 1e-9}
    with pytest.raises(RuntimeError, match="cannot allocate 8 bytes"):
        wp.fixed_point(failing_with_a_graph("cannot allocate 8 bytes"), torch.zeros_like(q), (q,), **options)
    refused = failing_with_a_graph("Can't call numpy() on Tensor that requires grad.")
    value = wp.fixed_point(refused, torch.zeros_like(q), (q,), **options).value
    torch.testing.assert_close(value.detach(), 2.0 * q.detach(), rtol=1e-8, atol=1e-8)
    with pytest.raises(RuntimeError, match="requires grad"):
        value.sum().backward()
