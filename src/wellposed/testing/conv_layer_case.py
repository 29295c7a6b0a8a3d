"""What every convolutional layer must do: the same as the dense layer of its matrix."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import wellposed as wp
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.testing import tensors
from wellposed.testing.layer_evidence import check_size_bound
from wellposed.testing.oracles import monotone_numpy
from wellposed.testing.tensors import array

IMAGES = [(5, 6), (4, 4), (7, 3), (1, 6), (5, 1)]


class ConvLayerCase:
    """Every check of a layer on images of two channels, against the matrix of its state map; inherit, and give ``make``.

    Attributes:
        monotone_floor: a lower bound of the strong-monotonicity constant of ``make``.
        smooth: an activation with derivatives.
        unrolled_step: at which a damped iteration converges with that activation.

    Example:
        >>> import torch, wellposed as wp
        >>> from wellposed.testing import ConvLayerCase
        >>> class TestConvMonDEQ(ConvLayerCase):
        ...     def make(self, image=(5, 6), dtype=torch.float64, channels=2, **options):
        ...         torch.manual_seed(0)
        ...         return wp.ConvMonDEQ(channels, 3, image, m=0.5, dtype=dtype, **{**self.exact(dtype), **options})
        >>> TestConvMonDEQ().test_value_and_error_bound((1, 6), 1, torch.float64)
    """

    monotone_floor = 0.45
    smooth = "tanh"
    unrolled_step = 0.1

    def make(
        self, image: tuple[int, int] = (5, 6), dtype: torch.dtype = torch.float64, channels: int = 2, **options: Any
    ) -> wp.Equilibrium:
        """The layer for a size of images, the same weights at every call; options go to its constructor."""
        raise NotImplementedError

    def exact(self, dtype: torch.dtype) -> dict[str, float]:
        """Options of a solve to almost all digits of float64."""
        return {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}

    def inputs(self, layer: wp.Equilibrium, count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
        """Images for the layer."""
        return tensors.randn(count, *layer.input_shape, seed=1, dtype=torch.float32).to(dtype)

    def matrix(self, layer: wp.Equilibrium) -> Tensor:
        """The matrix of the state map, shape (n, n), float64."""
        return layer.operator().to(torch.float64).dense().detach()

    def inside(self, layer: wp.Equilibrium) -> Tensor:
        """Which units are not kept zero."""
        return tensors.ones(layer.state_features, dtype=torch.bool)

    def true_state(self, layer: wp.Equilibrium, x: Tensor) -> Tensor:
        """The equilibria for ReLU, shape (batch, n), by a plain iteration with the matrix in numpy."""
        offset = copy.deepcopy(layer).double().injection(x.double()).flatten(1).detach()
        kept = self.inside(layer)
        matrix = self.matrix(layer)[kept][:, kept]
        state = torch.zeros_like(offset)
        state[:, kept] = monotone_numpy(array(matrix), array(offset[:, kept]), self.monotone_floor)
        return state

    @pytest.mark.parametrize("image", IMAGES)
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_value_and_error_bound(self, image: tuple[int, int], stride: int, dtype: torch.dtype) -> None:
        layer = self.make(image, dtype, stride=stride)
        x = self.inputs(layer, 6, dtype)
        solution = layer.solve(x)
        assert solution.converged.all()
        assert solution.value.shape == (6, *layer.state_shape) and solution.value.dtype == dtype
        truth = self.true_state(layer, x)
        error = (solution.value.detach().double().flatten(1) - truth).norm(dim=1)
        assert (error <= solution.error_bound + 1e-12).all()
        quick = (layer.state(x).detach().double().flatten(1) - truth).norm(dim=1)
        assert (quick <= 1e-3 * (1 + truth.norm(dim=1))).all()

    def test_the_bound_of_a_size_holds_for_every_defect_of_that_size(self) -> None:
        check_size_bound(self.make(IMAGES[0]))

    @pytest.mark.parametrize("image", IMAGES)
    def test_gradients_agree_with_those_of_the_dense_layer(self, image: tuple[int, int]) -> None:
        layer = self.make(image, activation=self.smooth)
        x = self.inputs(layer, 3).requires_grad_()
        cotangent = tensors.randn(3, layer.state_features, dtype=torch.float64)
        parameters = [p for p in layer.parameters() if p.requires_grad]
        found = torch.autograd.grad((layer.state(x).flatten(1) * cotangent).sum(), [x, *parameters], allow_unused=True)
        matrix, offset = layer.operator().dense(), layer.injection(x).flatten(1)
        state = torch.zeros_like(offset)
        for _ in range(int(90 / self.unrolled_step)):
            state = state + self.unrolled_step * (layer.activation(state @ matrix.T + offset) - state)
        expected = torch.autograd.grad((state * cotangent).sum(), [x, *parameters], allow_unused=True)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)

    def test_derivatives_of_every_kind(self) -> None:
        layer = self.make((2, 3), channels=1, activation=self.smooth)
        names = [name for name, _ in layer.named_parameters()]

        def function(x: Tensor, *parameters: Tensor) -> Tensor:
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

        x = self.inputs(layer, 2).requires_grad_()
        arguments = (x, *layer.parameters())
        # Along random directions: every entry of every gradient is compared with the dense layer's elsewhere.
        assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda v: function(v, *layer.parameters()), (x,), fast_mode=True)
        assert torch.autograd.gradcheck(
            function, arguments, check_forward_ad=True, check_backward_ad=False, fast_mode=True
        )
        jacobian = torch.func.jacrev(layer)(x.detach())
        expected = torch.autograd.functional.jacobian(layer, x.detach())
        torch.testing.assert_close(jacobian, expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(torch.func.vmap(layer)(x.detach()), layer(x.detach()), rtol=1e-9, atol=1e-10)

    def test_nothing_is_factorised_again_in_backward(self) -> None:
        layer = self.make()
        cache = factorisation_cache(layer.constraint)
        value = layer(self.inputs(layer))
        before = cache.factorisations
        assert before > 0
        value.sum().backward()
        with torch.no_grad():
            layer(2 * self.inputs(layer))
        assert cache.factorisations == before
        with torch.no_grad():
            next(layer.constraint.parameters()).data.add_(0.1)
            layer(self.inputs(layer))
        assert cache.factorisations == before + 1

    @pytest.mark.parametrize("stride", [1, 2, 3])
    def test_lipschitz_constant_is_never_exceeded(self, stride: int) -> None:
        layer = self.make((5, 6), stride=stride)
        constant, _ = layer.lipschitz()
        x = self.inputs(layer, 5)
        jacobians = torch.func.vmap(torch.func.jacrev(layer))(x).reshape(5, -1, layer.in_features)
        assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= constant * (1 + 1e-9)

    def test_leading_shapes_copies_and_bad_input(self) -> None:
        layer = self.make()
        x = self.inputs(layer, 6)
        rows = layer(x)
        torch.testing.assert_close(layer(x.reshape(2, 3, *x.shape[1:])), rows.reshape(2, 3, *rows.shape[1:]))
        torch.testing.assert_close(layer(x[0]), rows[0])
        warm = layer.solve(x, layer.state(x).detach())
        assert int(warm.steps.max()) < int(layer.solve(x).steps.max())
        again = pickle.loads(pickle.dumps(layer))
        torch.testing.assert_close(again(x), rows)
        other = self.make()
        other.load_state_dict(layer.state_dict())
        torch.testing.assert_close(other(x), rows)
        with pytest.raises(wp.InputError, match=r"takes images of shape \(2, 5, 6\)"):
            layer(x.transpose(2, 3))
        with pytest.raises(wp.InputError, match="NaN or infinite"):
            layer(x / 0)
        with pytest.raises(wp.InputError, match="NaN or infinite"):
            layer(x * torch.nan)

    def test_training_lowers_the_loss_and_keeps_the_guarantee(self) -> None:
        layer = self.make((6, 5), torch.float32)
        x = self.inputs(layer, 16, torch.float32)
        target = torch.rand_like(layer(x).detach())
        for optimiser in (torch.optim.AdamW, torch.optim.SGD):
            step = optimiser(layer.parameters(), lr=1e-2, weight_decay=1e-2)
            losses = []
            for _ in range(40):
                loss = (layer(x) - target).square().mean()
                step.zero_grad()
                loss.backward()
                step.step()
                losses.append(float(loss.detach()))
            assert losses[-1] < losses[0]
        self.check_condition(layer)
        layer.tolerance = wp.solvers.solution.Tolerance(1e-6, 1e-6)
        solution = layer.solve(x)
        assert solution.converged.all()
        assert (solution.error_bound <= 1e-6 * (1 + solution.value.flatten(1).norm(dim=1))).all()

    def check_condition(self, layer: wp.Equilibrium) -> None:
        """The proved constant of the trained layer is positive, and no larger than that of the matrix."""
        matrix = self.matrix(layer)
        guarantee: Any = layer.guarantee()  # strongly monotone; others override this
        gap = tensors.eye(len(matrix), dtype=torch.float64) - 0.5 * (matrix + matrix.T)
        assert 0 < guarantee.m <= float(torch.linalg.eigvalsh(gap)[0]) + 1e-12
