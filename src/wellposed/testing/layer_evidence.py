"""What a layer's solve must tell: values with error bounds that hold, and a condition that the stored numbers satisfy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import wellposed as wp
from wellposed.testing import tensors
from wellposed.testing.layer_hooks import LayerHooks, trained


def check_size_bound(layer: wp.Equilibrium) -> None:
    """A defect of which the size alone is known is bounded by no less than one that is known, for the adjoint map, too."""
    operator, guarantee = layer.materialise()
    assert guarantee is not None
    for promise in (guarantee, guarantee.on(operator.transpose())):
        defects = tensors.randn(50, *operator.state_shape, dtype=torch.float64)
        single = defects.view(50, -1)[:25]
        for row, entries in enumerate(single):  # all of a defect in one entry
            place = row % len(entries)
            entries[:place], entries[place + 1 :] = 0.0, 0.0
        size = defects.flatten(1).norm(dim=1)
        known, unknown = promise.defect_bound(defects, size), promise.size_bound(defects, size)
        assert (known <= unknown * (1.0 + 1e-9)).all()


class LayerEvidence(LayerHooks):
    """Values, error bounds, tolerances, steps and the theorem's condition, against the family's own solution."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_value_and_error_bound(self, dtype: torch.dtype) -> None:
        layer = self.make_layer(dtype)
        x = self.inputs(200, dtype)
        solution = layer.solve(x)
        assert solution.converged.all()
        error = (solution.value.detach().double() - self.true_state(layer, x.double())).norm(dim=1)
        assert (error <= solution.error_bound + 1e-13).all()
        assert solution.value.dtype == dtype
        if dtype == torch.float32:
            assert float((solution.error_bound / error.clamp_min(1e-12)).median()) <= self.largest_overestimate

    def test_the_bound_of_a_size_holds_for_every_defect_of_that_size(self) -> None:
        check_size_bound(self.make_layer(torch.float64))

    @pytest.mark.slow
    def test_error_bound_over_a_hundred_thousand_samples(self) -> None:
        layer = self.make_layer(torch.float32, rtol=1e-3)
        ratios = []
        for seed in range(10):
            x = tensors.randn(10_000, 7, seed=seed, dtype=torch.float32) * 10.0 ** (seed % 3 - 1)
            solution = layer.solve(x)
            error = (solution.value.detach().double() - self.true_state(layer, x.double())).norm(dim=1)
            assert (error <= solution.error_bound + 1e-13 * (1 + solution.value.norm(dim=1))).all()
            ratios.append((solution.error_bound / error.clamp_min(1e-12)).detach())
        median = float(torch.cat(ratios).median())
        print(f"{type(self).__name__}: median overestimate {median:.2f}")
        assert median <= self.largest_overestimate

    def test_tight_tolerance_in_float32_is_met_and_proved(self) -> None:
        layer = self.make_layer(torch.float32, rtol=1e-6, atol=1e-6)
        x = self.inputs(50, torch.float32)
        solution = layer.solve(x)
        assert solution.converged.all()
        assert (solution.error_bound <= 1e-6 * (1 + solution.value.norm(dim=1))).all()
        error = (solution.value.detach().double() - self.true_state(layer, x.double())).norm(dim=1)
        assert (error <= solution.error_bound).all()

    def test_converges_within_the_steps_that_its_guarantee_predicts(self) -> None:
        layer = trained(self.make_layer(atol=0.0, rtol=1e-8))
        operator = layer.operator()
        guarantee: Any = (
            layer.guarantee()
        )  # strongly monotone, and the layer's solver a splitting; others override this
        plan: Any = (layer.solver or wp.solvers.solver_for(guarantee)).plan(guarantee)
        x = self.inputs(20)
        solution = layer.solve(x)
        offset = layer.injection(x)
        first = float(operator.cayley(plan.step).affine(offset, offset).detach().norm(dim=1).max()) * plan.step * 2
        sizes = solution.value.detach().norm(dim=1)
        smallest = float(sizes[sizes > 0].min())
        # The solver stops on a certified bound, which may exceed the error by the condition number.
        target = 1e-8 * smallest * guarantee.m / (1 + guarantee.smoothness)
        assert int(solution.steps.max()) <= plan.iterations(first, target)

    @pytest.mark.parametrize("shape", ["full", "rank one", "zero rows"])
    @pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 1e2, 1e4, 1e6])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_condition_holds_for_any_parameters_or_the_layer_raises(
        self, dtype: torch.dtype, scale: float, shape: str
    ) -> None:
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
    def test_condition_holds_after_a_thousand_steps_with_weight_decay(self, optimiser: Any) -> None:
        layer = self.make_layer(torch.float32)
        steps = optimiser(layer.parameters(), lr=3e-3, weight_decay=1e-2)
        source = tensors.generator()
        drift = [tensors.randn(p.shape, generator=source, dtype=p.dtype) for p in layer.parameters()]
        for _ in range(1000):  # in one direction, with noise: further than training goes
            for parameter, direction in zip(layer.parameters(), drift, strict=True):
                parameter.grad = direction + tensors.randn(parameter.shape, generator=source, dtype=direction.dtype)
            steps.step()
        try:
            promised = self.promised(layer)
        except wp.GuaranteeError:  # lost to rounding, and said so
            return
        assert self.condition(layer) >= promised >= 0

    def test_the_adjoint_reports_its_convergence_and_error_bound(self) -> None:
        layer = self.make_layer(torch.float32)
        solution = layer.solve(self.inputs(5, torch.float32))
        assert solution.adjoint_reports == []
        solution.value.sum().backward()
        (report,) = solution.adjoint_reports
        assert report.converged.all()
        assert report.error_bound.shape == (5,)
        assert (report.error_bound < 1e-2).all()
