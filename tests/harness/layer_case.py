"""What every constrained layer must do. Inherit, and give three hooks."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor

import wellposed as wp


def train(layer: wp.Equilibrium, steps: int = 60) -> wp.Equilibrium:
    """Fit a layer to random targets for a while, with weight decay."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(64, 7, generator=generator).to(layer.injection.weight)
    target = torch.randn(64, 6, generator=generator).to(x)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimiser.step()
    return layer


class LayerCase:
    """A layer of 7 input and 6 state features, and an independent solution of it."""

    largest_overestimate = 10.0  # of the error bound, in the median

    def make_layer(self, dtype: torch.dtype = torch.float64, **options) -> wp.Equilibrium:
        raise NotImplementedError

    def true_state(self, layer: wp.Equilibrium, x: Tensor) -> Tensor:
        """The equilibrium in float64, not by this library's solvers."""
        raise NotImplementedError

    def condition(self, layer: wp.Equilibrium) -> float:
        """By how much the stored numbers satisfy the theorem's matrix condition, in float64."""
        raise NotImplementedError

    def inputs(self, count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(count, 7, generator=torch.Generator().manual_seed(5)).to(dtype)

    def exact_layer(self) -> wp.Equilibrium:
        return self.make_layer(rtol=1e-13, atol=1e-13, activation="tanh")

    def as_function(self, layer: wp.Equilibrium):
        names = [name for name, _ in layer.named_parameters()]
        return lambda x, *p: torch.func.functional_call(layer, dict(zip(names, p, strict=True)), (x,))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_value_and_error_bound(self, dtype):
        layer = self.make_layer(dtype)
        x = self.inputs(200, dtype)
        solution = layer.solve(x)
        assert solution.converged.all()
        error = (solution.value.detach().double() - self.true_state(layer, x.double())).norm(dim=1)
        assert (error <= solution.error_bound + 1e-13).all()
        assert solution.value.dtype == dtype
        if dtype == torch.float32:
            assert float((solution.error_bound / error.clamp_min(1e-12)).median()) <= self.largest_overestimate

    @pytest.mark.slow
    def test_error_bound_over_a_hundred_thousand_samples(self):
        layer = self.make_layer(torch.float32, rtol=1e-3)
        ratios = []
        for seed in range(10):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(10_000, 7, generator=generator) * 10.0 ** (seed % 3 - 1)
            solution = layer.solve(x)
            error = (solution.value.detach().double() - self.true_state(layer, x.double())).norm(dim=1)
            assert (error <= solution.error_bound + 1e-13 * (1 + solution.value.norm(dim=1))).all()
            ratios.append((solution.error_bound / error.clamp_min(1e-12)).detach())
        median = float(torch.cat(ratios).median())
        print(f"{type(self).__name__}: median overestimate {median:.2f}")
        assert median <= self.largest_overestimate

    def test_tight_tolerance_in_float32_is_met_and_proved(self):
        layer = self.make_layer(torch.float32, rtol=1e-6, atol=1e-6)
        x = self.inputs(50, torch.float32)
        solution = layer.solve(x)
        assert solution.converged.all()
        assert (solution.error_bound <= 1e-6 * (1 + solution.value.norm(dim=1))).all()
        error = (solution.value.detach().double() - self.true_state(layer, x.double())).norm(dim=1)
        assert (error <= solution.error_bound).all()

    def test_converges_within_the_steps_that_its_guarantee_predicts(self):
        layer = train(self.make_layer(atol=0.0, rtol=1e-8))
        operator, guarantee = layer.materialise()
        plan = (layer.solver or wp.solvers.solver_for(guarantee)).plan(guarantee)
        x = self.inputs(20)
        solution = layer.solve(x)
        offset = layer.injection(x)
        first = float(operator.cayley(plan.step).affine(offset, offset).detach().norm(dim=1).max()) * plan.step * 2
        sizes = solution.value.detach().norm(dim=1)
        smallest = float(sizes[sizes > 0].min())
        # The solver stops on a certified bound, which may exceed the error by the condition number.
        target = 1e-8 * smallest * guarantee.m / (1 + guarantee.smoothness)
        assert int(solution.steps.max()) <= plan.iterations(first, target)

    def promised(self, layer: wp.Equilibrium) -> float:
        """What the guarantee says `condition` is at least; raises if it promises nothing."""
        return layer.materialise()[1].m

    @pytest.mark.parametrize("shape", ["full", "rank one", "zero rows"])
    @pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 1e2, 1e4, 1e6])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_condition_holds_for_any_parameters_or_the_layer_raises(self, dtype, scale, shape):
        layer = self.make_layer(dtype)
        with torch.no_grad():
            for parameter in layer.constraint.parameters():
                parameter.mul_(scale)
                if parameter.ndim == 2 and shape == "rank one":
                    parameter.copy_(torch.outer(parameter[:, 0], torch.sign(parameter[0])))
                if parameter.ndim == 2 and shape == "zero rows":
                    parameter[::2] = 0.0
        try:
            promised = self.promised(layer)
        except (wp.GuaranteeError, wp.InputError):  # lost to rounding, or overflow
            return
        assert promised >= 0
        assert self.condition(layer) >= promised

    @pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD])
    def test_condition_holds_after_a_thousand_steps_with_weight_decay(self, optimiser):
        layer = self.make_layer(torch.float32)
        steps = optimiser(layer.parameters(), lr=3e-3, weight_decay=1e-2)
        generator = torch.Generator().manual_seed(0)
        drift = [torch.randn(p.shape, generator=generator) for p in layer.parameters()]
        for _ in range(1000):  # in one direction, with noise: further than training goes
            for parameter, direction in zip(layer.parameters(), drift, strict=True):
                parameter.grad = direction + torch.randn(parameter.shape, generator=generator)
            steps.step()
        try:
            promised = self.promised(layer)
        except wp.GuaranteeError:  # lost to rounding, and said so
            return
        assert self.condition(layer) >= promised >= 0

    def test_gradients_of_first_and_second_order(self):
        layer = self.exact_layer()
        function = self.as_function(layer)
        arguments = (self.inputs(2).requires_grad_(), *layer.parameters())
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)

    def test_forward_mode(self):
        layer = self.exact_layer()
        arguments = (self.inputs(2).requires_grad_(), *layer.parameters())
        assert torch.autograd.gradcheck(self.as_function(layer), arguments, check_forward_ad=True)

    def test_functional_transforms_agree_with_autograd(self):
        layer = self.exact_layer()
        x = self.inputs(3)
        jacobian = torch.func.jacrev(layer)(x)
        forward = torch.func.jacfwd(layer)(x)
        expected = torch.autograd.functional.jacobian(layer, x)
        torch.testing.assert_close(jacobian, expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(forward, expected, rtol=1e-9, atol=1e-10)
        batched = torch.func.vmap(layer)(x)
        torch.testing.assert_close(batched, layer(x), rtol=1e-10, atol=1e-11)
        each = torch.func.vmap(torch.func.jacrev(layer))(x)
        rows = torch.arange(len(x))
        torch.testing.assert_close(each, expected[rows, :, rows], rtol=1e-9, atol=1e-10)

        def energy(v):
            return layer(v).square().sum()

        hessian = torch.func.hessian(energy)(x[0])
        torch.testing.assert_close(hessian, torch.autograd.functional.hessian(energy, x[0]), rtol=1e-7, atol=1e-8)
        gradient = torch.func.grad(energy)(x)
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(energy(leaf), leaf)[0], rtol=1e-9, atol=1e-10)

    def test_vmap_over_weights(self):
        layer = self.exact_layer()
        x = self.inputs(2)
        parameters = [parameter.detach() for parameter in layer.parameters()]
        stacked = [torch.stack([p, 0.5 * p]) for p in parameters]
        function = self.as_function(layer)
        both = torch.func.vmap(lambda *p: function(x, *p))(*stacked)
        for index, value in enumerate(both):
            torch.testing.assert_close(value, function(x, *(s[index] for s in stacked)), rtol=1e-9, atol=1e-10)

    def test_eval_mode_has_gradients_and_no_grad_has_none(self):
        layer = self.make_layer().eval()
        x = self.inputs().requires_grad_()
        assert torch.autograd.grad(layer(x).sum(), x)[0].abs().sum() > 0
        with torch.no_grad():
            assert not layer(x).requires_grad

    def test_one_module_used_twice_before_backward(self):
        layer = self.exact_layer()
        x, y = self.inputs(), 2.0 * self.inputs()
        (layer(x).sum() + layer(y).square().sum()).backward()
        trained = [p for p in layer.parameters() if p.requires_grad]
        together = [p.grad.clone() for p in trained]
        layer.zero_grad()
        layer(x).sum().backward()
        layer(y).square().sum().backward()
        for found, expected in zip(together, trained, strict=True):
            torch.testing.assert_close(found, expected.grad, rtol=1e-9, atol=1e-10)

    def test_backward_after_another_forward_with_other_weights(self):
        layer = self.exact_layer()
        x = self.inputs().requires_grad_()
        expected = torch.autograd.grad(layer(x).sum(), x)[0]
        value = layer(x).sum()
        for scale in (0.5, 1.5, 2.0, 3.0, 4.0):  # more than the factorisations that are kept
            with torch.no_grad():
                self.as_function(layer)(x, *(scale * parameter for parameter in layer.parameters()))
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], expected, rtol=1e-10, atol=1e-11)

    def test_threads(self):
        layer = self.make_layer()
        x = [self.inputs() * k for k in range(1, 5)]
        expected = [layer(v).detach() for v in x]
        results: list[Tensor | None] = [None] * len(x)

        def work(k: int) -> None:
            for _ in range(5):
                value = layer(x[k])
                torch.autograd.grad(value.sum(), layer.injection.weight)
                results[k] = value.detach()

        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(x))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for found, value in zip(results, expected, strict=True):
            torch.testing.assert_close(found, value)

    def test_nothing_is_left_behind_in_the_module(self):
        layer = self.make_layer()
        before = {name: set(vars(module)) for name, module in layer.named_modules()}
        state = copy.deepcopy(layer.state_dict())
        layer(self.inputs()).sum().backward()
        layer.solve(self.inputs())
        assert before == {name: set(vars(module)) for name, module in layer.named_modules()}
        assert state.keys() == layer.state_dict().keys()
        for name, value in layer.state_dict().items():
            assert torch.equal(value, state[name])
        again = pickle.loads(pickle.dumps(layer))
        torch.testing.assert_close(again(self.inputs()), layer(self.inputs()))
        torch.testing.assert_close(copy.deepcopy(layer)(self.inputs()), layer(self.inputs()))

    def test_state_dict_round_trip(self):
        layer, other = self.make_layer(), self.make_layer()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.normal_()
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(self.inputs()), layer(self.inputs()))

    def test_nothing_is_factorised_again_in_backward_or_while_weights_stand_still(self):
        layer = self.make_layer()
        cache = layer.materialise()[0]._cache
        x = self.inputs()
        value = layer(x)
        after_forward = cache.factorisations
        value.sum().backward()
        assert cache.factorisations == after_forward
        layer.eval()
        with torch.no_grad():
            layer(x)
            layer(2 * x)
        assert cache.factorisations == after_forward
        with torch.no_grad():
            for parameter in layer.constraint.parameters():
                parameter.data.add_(0.01)
            layer(x)
        assert cache.factorisations == after_forward + (after_forward > 0)  # some default solvers need none

    def test_training_with_any_optimiser(self):
        for optimiser in (torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop):
            layer = self.make_layer(torch.float32)
            target = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)).abs()
            x = self.inputs(16, torch.float32)
            step = optimiser(layer.parameters(), lr=1e-2)
            losses = []
            for _ in range(20):
                loss = (layer(x) - target).square().mean()
                step.zero_grad()
                loss.backward()
                step.step()
                losses.append(float(loss.detach()))
            assert losses[-1] < losses[0]

    def test_any_leading_shape(self):
        layer = self.make_layer()
        x = self.inputs(6)
        rows = layer(x)
        torch.testing.assert_close(layer(x.reshape(2, 3, 7)), rows.reshape(2, 3, 6))
        torch.testing.assert_close(layer(x[0]), rows[0])
        solution = layer.solve(x.reshape(2, 3, 7))
        assert solution.error_bound.shape == solution.steps.shape == solution.converged.shape == (2, 3)

    def test_the_adjoint_reports_its_convergence_and_error_bound(self):
        layer = self.make_layer(torch.float32)
        solution = layer.solve(self.inputs(5, torch.float32))
        assert solution.adjoint_reports == []
        solution.value.sum().backward()
        (report,) = solution.adjoint_reports
        assert report.converged.all()
        assert report.error_bound.shape == (5,)
        assert (report.error_bound < 1e-2).all()

    def test_bad_input(self):
        layer = self.make_layer()
        with pytest.raises(wp.InputError, match=r"x: has shape \(3, 5\).*takes 7 features"):
            layer(torch.zeros(3, 5, dtype=torch.float64))
        with pytest.raises(wp.InputError, match="dtype torch.float32"):
            layer(torch.zeros(3, 7, dtype=torch.float32))
        for bad in (torch.nan, torch.inf, -torch.inf):
            x = self.inputs()
            x[1, 2] = bad
            with pytest.raises(wp.InputError, match="x: has NaN or infinite"):
                layer(x)
        with pytest.raises(wp.OptionError, match="Did you mean 'max_steps'"):
            self.make_layer(max_stpes=3)
        with pytest.raises(wp.InputError, match="Did you mean 'tanh'"):
            self.make_layer(activation="tahn")
        if self.make_layer().constraint.needs_monotone:
            with pytest.raises(wp.InputError, match="slopes within"):
                self.make_layer(activation="gelu")
        with pytest.raises(wp.InputError, match="rtol=-1"):
            self.make_layer(rtol=-1.0)
        with pytest.raises(wp.InputError, match="on_failure='ignore'"):
            self.make_layer(on_failure="ignore")

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_bad_weights(self, bad):
        for name, _ in self.make_layer().named_parameters():
            layer = self.make_layer()
            with torch.no_grad():
                dict(layer.named_parameters())[name].view(-1)[0] = bad
            with pytest.raises(wp.InputError, match=f"{name}: the weights have NaN or infinite"):
                layer(self.inputs())
