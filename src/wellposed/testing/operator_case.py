"""What every operator must do."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.operators import Circular, Operator
from wellposed.testing import tensors


class OperatorCase:
    """Every check of an operator, against its matrix, which ``dense`` forms independently; inherit, and give the three hooks.

    Attributes:
        has_resolvent: whether `Operator.cayley` is to be called.

    Example:
        The rule for the operator that the library has for any matrix.

        >>> import torch
        >>> from wellposed.operators import Dense
        >>> from wellposed.testing import OperatorCase, randn
        >>> class TestDense(OperatorCase):
        ...     def make_operator(self):
        ...         return Dense(0.2 * randn(5, 5, seed=1, dtype=torch.float64))
        ...     def dense(self, operator):
        ...         return operator.tensors[0]
        ...     def state_shape(self):
        ...         return (5,)
        >>> TestDense().test_transpose_is_the_adjoint()
    """

    has_resolvent = True

    def make_operator(self) -> Operator:
        """A float64 operator whose tensors require no gradient, with positive definite symmetric part of I − W."""
        raise NotImplementedError

    def dense(self, operator: Operator) -> Tensor:
        """Its matrix on the flattened state, shape (n, n), from the operator's tensors."""
        raise NotImplementedError

    def state_shape(self) -> tuple[int, ...]:
        """The shape of one state."""
        raise NotImplementedError

    def states(self, count: int = 5, seed: int = 0) -> Tensor:
        """Some states, shape (count, *state), float64."""
        return tensors.randn(count, *self.state_shape(), seed=seed, dtype=torch.float64)

    def flat(self, matrix: Tensor, state: Tensor) -> Tensor:
        """A matrix on the flattened state, applied to states."""
        return (state.flatten(1) @ matrix.T).reshape(state.shape)

    def reflected(self, operator: Operator, matrix: Tensor, step: float) -> Tensor:
        """The Cayley transform of a matrix at a step, with the operator's scaling, by the inverse."""
        identity = tensors.eye(len(matrix), dtype=torch.float64)
        scaling = tensors.ones(self.state_shape(), dtype=torch.float64)
        if operator.scaling is not None:
            scaling = scaling * operator.scaling
        return 2 * torch.linalg.inv(identity + step * scaling.flatten()[:, None] * (identity - matrix)) - identity

    def test_dense_form(self) -> None:
        operator = self.make_operator()
        torch.testing.assert_close(operator.dense(), self.dense(operator), rtol=1e-12, atol=1e-12)

    def test_apply_and_affine(self) -> None:
        operator, z, q = self.make_operator(), self.states(), self.states(seed=1)
        expected = self.flat(self.dense(operator), z)
        torch.testing.assert_close(operator.apply(z), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(operator.affine(z, q), expected + q, rtol=1e-12, atol=1e-12)

    def test_transpose_is_the_adjoint(self) -> None:
        operator, z, y = self.make_operator(), self.states(), self.states(seed=1)
        left = (operator.apply(z) * y).sum()
        right = (z * operator.transpose().apply(y)).sum()
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(operator.transpose().dense(), self.dense(operator).T, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(operator.transpose().transpose().apply(z), operator.apply(z))

    def test_nothing_that_is_passed_in_is_changed(self) -> None:
        """States, offsets and tensors are read only: published multi-scale code folds borders into views of its input."""
        operator, z, q = self.make_operator(), self.states(), self.states(seed=1)
        before = [t.clone() for t in (z, q, *operator.tensors)]
        for side in (operator, operator.transpose()):
            side.apply(z)
            side.affine(z, q)
            side.tensor_gradients(z, q)
            side.dense()
            if self.has_resolvent:
                side.cayley(0.7).affine(z, q)
        for kept, now in zip(before, (z, q, *operator.tensors), strict=True):
            assert torch.equal(kept, now)

    def test_cayley_of_the_operator_and_of_its_transpose(self) -> None:
        operator, z = self.make_operator(), self.states()
        matrix = self.dense(operator)
        for step in (0.1, 1.0, 3.0):
            expected = self.flat(self.reflected(operator, matrix, step), z)
            torch.testing.assert_close(operator.cayley(step).apply(z), expected, rtol=1e-10, atol=1e-10)
            expected = self.flat(self.reflected(operator, matrix.T, step), z)
            torch.testing.assert_close(operator.transpose().cayley(step).apply(z), expected, rtol=1e-10, atol=1e-10)

    def test_gradients_of_the_tensors(self) -> None:
        operator = self.make_operator()
        z, y = self.states(), self.states(seed=1)
        for side in (operator, operator.transpose()):
            leaves = tuple(tensor.clone().requires_grad_() for tensor in side.tensors)
            pairing = (side.rebuild(leaves).apply(z) * y).sum()
            expected = torch.autograd.grad(pairing, leaves)
            for found, true in zip(side.tensor_gradients(y, z), expected, strict=True):
                torch.testing.assert_close(found, true, rtol=1e-11, atol=1e-11)
            tangents = tuple(torch.randn_like(tensor) for tensor in side.tensors)
            direct = torch.func.jvp(lambda *t: side.rebuild(t).apply(z), side.tensors, tangents)[1]  # noqa: B023
            torch.testing.assert_close(side.tensor_tangent(tangents, z), direct, rtol=1e-11, atol=1e-11)

    def test_norm_bounds_hold(self) -> None:
        operator = self.make_operator()
        matrix = self.dense(operator)
        assert operator.norm_upper_bound() >= float(torch.linalg.matrix_norm(matrix, 2))
        torch.testing.assert_close(operator.trace(), float(matrix.trace()), rtol=1e-10, atol=1e-10)
        displacement = self.displacement(operator)
        spread = float(torch.linalg.matrix_norm(displacement)) / len(matrix) ** 0.5
        assert 0.5 * spread <= operator.displacement_norm_estimate() <= 2.0 * spread
        assert operator.displacement_norm() >= float(torch.linalg.matrix_norm(displacement, 2))

    def displacement(self, operator: Operator) -> Tensor:
        """Λ(I − W), Λ the scaling."""
        scaling = torch.ones(self.state_shape(), dtype=torch.float64, device="cpu")
        if operator.scaling is not None:
            scaling = scaling * operator.scaling
        matrix = self.dense(operator)
        return scaling.flatten()[:, None] * (torch.eye(len(matrix), dtype=torch.float64, device="cpu") - matrix)

    def test_what_it_says_of_states(self) -> None:
        operator = self.make_operator()
        assert operator.state_shape == self.state_shape()
        assert operator.dtype == torch.float64 and operator.to(torch.float32).dtype == torch.float32
        assert not operator.transposed and operator.transpose().transposed

    def test_other_forms_are_the_same_map(self) -> None:
        operator = self.make_operator()
        matrix = self.dense(operator)
        for side, expected in ((operator, matrix), (operator.transpose(), matrix.T)):
            if side.matrix() is not None:
                torch.testing.assert_close(side.matrix(), expected, rtol=0.0, atol=0.0)
            known = side.coefficients()
            if known is not None:
                own = known.weight[known.own].repeat_interleave(len(matrix) // len(known.weight))
                torch.testing.assert_close(own, expected.diagonal(), rtol=1e-12, atol=1e-12)
                diagonal = torch.diag(expected.diagonal())
                positive, negative = (expected - diagonal).clamp_min(0.0), (diagonal - expected).clamp_min(0.0)
                both = torch.cat(
                    [torch.cat([diagonal + positive, -negative], 1), torch.cat([-negative, diagonal + positive], 1)]
                )
                torch.testing.assert_close(side.embedding().dense(), both, rtol=1e-12, atol=1e-12)
            else:
                assert side.embedding() is None
            form = side.frequency_form()
            if form is not None:
                again = Circular(form.transfer, form.image[1])
                torch.testing.assert_close(again.dense(), expected, rtol=1e-12, atol=1e-12)
                assert form.metric.shape == (again.channels,) and bool((form.metric > 0.0).all())

    def test_symmetric_parts_are_below_the_map(self) -> None:
        operator = self.make_operator()
        try:
            parts = operator.symmetric_parts()
        except InputError:
            assert operator.matrix() is not None or not self.has_resolvent
            return
        least = min(float(torch.linalg.eigvalsh(0.5 * (part + part.mH)).amin()) - error for part, error in parts)
        displacement = self.displacement(operator)
        true = float(torch.linalg.eigvalsh(0.5 * (displacement + displacement.T))[0])
        assert least <= true + 1e-12 * (1.0 + abs(true))

    def test_rounding_bound_holds_in_float32(self) -> None:
        operator = self.make_operator().to(torch.float32)
        exact = operator.to(torch.float64)
        z, q = self.states(200).float(), self.states(200, seed=1).float()
        error = (operator.affine(z, q).double() - exact.affine(z.double(), q.double())).flatten(1).norm(dim=1)
        bound = operator.rounding(z.flatten(1).norm(dim=1), q.flatten(1).norm(dim=1))
        assert (error <= bound).all()
        size = operator.norm_upper_bound() * z.flatten(1).norm(dim=1) + q.flatten(1).norm(dim=1)
        assert (bound <= 1e-4 * size).all()
        weighed = operator.weighed_rounding(z.flatten(1).norm(dim=1), q.flatten(1).norm(dim=1))
        if weighed is not None:
            assert operator.scaling is not None
            scaled = operator.scaling.double() * (operator.affine(z, q).double() - exact.affine(z.double(), q.double()))
            assert (scaled.flatten(1).norm(dim=1) <= weighed).all()

    def test_changed_weights_are_noticed_however_they_change(self) -> None:
        operator, z = self.make_operator(), self.states()
        first = operator.cayley(1.0).apply(z)
        with torch.no_grad():
            for tensor in operator.tensors:
                tensor.data.mul_(0.5)
        changed = operator.rebuild(operator.tensors)
        expected = self.flat(self.reflected(changed, self.dense(changed), 1.0), z)
        again = changed.cayley(1.0).apply(z)
        torch.testing.assert_close(again, expected, rtol=1e-10, atol=1e-10)
        assert not torch.allclose(first, again)
