"""What every bound of a Lipschitz constant must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.testing.slopes import steepest


class BoundCase:
    """Every check of an upper bound of a Lipschitz constant; inherit, and give ``make_model`` and ``inputs``.

    Attributes:
        norm: of inputs and outputs, ``"2"``, ``"inf"`` or ``"1"``.

    Example:
        The bound by the product of the blocks' constants, which a single linear map attains.

        >>> import torch, wellposed as wp
        >>> from wellposed.testing import BoundCase, randn
        >>> class TestProduct(BoundCase):
        ...     def make_model(self):
        ...         torch.manual_seed(0)
        ...         return torch.nn.Sequential(wp.MonDEQ(5, 4, m=0.5), torch.nn.Linear(4, 3)).double()
        ...     def inputs(self, count=8):
        ...         return randn(count, 5, seed=1, dtype=torch.float64)
        ...     def bound(self, model):
        ...         return wp.certify(model, method="product").lipschitz
        ...     def tight_model(self):
        ...         return torch.nn.Linear(5, 1, dtype=torch.float64)
        >>> TestProduct().test_is_never_exceeded()
        >>> TestProduct().test_is_attained_where_it_is_tight()
    """

    norm = "2"

    def make_model(self) -> nn.Module:
        """A model in float64 and eval mode to which the bound applies, the same numbers at every call."""
        raise NotImplementedError

    def inputs(self, count: int = 8) -> Tensor:
        """Inputs of both models, shape (count, ...), float64, the same at every call."""
        raise NotImplementedError

    def bound(self, model: nn.Module) -> float:
        """The bound; by default the least of all that `certify` knows."""
        return wp.certify(model, norm=self.norm).lipschitz

    def tight_model(self) -> nn.Module | None:
        """A model whose Jacobian at one of the inputs has the norm that the bound says; None if no case is known."""
        return None

    def test_is_never_exceeded(self) -> None:
        model = self.make_model()
        assert steepest(model, self.inputs(), self.norm) <= self.bound(model) * (1.0 + 1e-9)

    def test_is_never_exceeded_after_steps_of_training(self) -> None:
        model, x = self.make_model(), self.inputs()
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
        for _ in range(5):
            optimiser.zero_grad()
            (-model(x).square().mean()).backward()
            optimiser.step()
        assert steepest(model, x, self.norm) <= self.bound(model) * (1.0 + 1e-9)

    def test_is_attained_where_it_is_tight(self) -> None:
        model = self.tight_model()
        if model is None:
            pytest.skip("no case is known where this bound is tight")
        assert self.bound(model) == pytest.approx(steepest(model, self.inputs(), self.norm), rel=1e-6)
