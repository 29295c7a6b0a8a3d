"""Layers whose state map comes from a constraint: forming W, and holding it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Self, Unpack

import torch
from torch import Tensor

from wellposed.constraints.base import Constraint
from wellposed.constraints.factorisations import is_transformed, made_once
from wellposed.errors import GuaranteeError
from wellposed.guarantee import Guarantee
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.options import SolveOptions
from wellposed.operators import Operator


class ConstrainedLayer(ImplicitLayer):
    """A layer with a state map W that a constraint forms from free parameters, with its guarantee.

    Args:
        constraint: free parameters of W, with their theorem.
        options: see `SolveOptions`.
    """

    constraint: Constraint
    _says_what_decides: ClassVar[bool] = True  # whether `_decided_by` is about `_form`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_form" in vars(cls):
            cls._says_what_decides = "_decided_by" in vars(cls)

    def __init__(self, constraint: Constraint, **options: Unpack[SolveOptions]) -> None:
        super().__init__(**options)
        self.constraint = constraint
        self._held: tuple[Operator, Guarantee | None] | None = None

    @property
    def state_features(self) -> int:
        """Number of features of the equilibrium."""
        return self.constraint.state_features

    def operator(self) -> Operator:
        """W as it runs, with the graph back to the free parameters; ``operator().dense()`` is the matrix."""
        return self.materialise()[0]

    def materialise(self) -> tuple[Operator, Guarantee | None]:
        """W as it runs, with the graph back to the free parameters, and what is promised of it, if anything."""
        return self._form() if self._held is None else self._held

    def _form(self) -> tuple[Operator, Guarantee | None]:
        """W and its guarantee, formed from the free parameters."""
        return self.constraint.materialise()

    def _decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]] | None:
        """All that `_form` depends on, see `Constraint.decided_by`."""
        return self.constraint.known_parts()

    def _in_use(self) -> tuple[Operator, Guarantee | None]:
        """As `materialise`, for evaluations, which write to none of its tensors and give none away.

        Where no graph is wanted, and it is known what W is formed of, it is formed once for its numbers.
        """
        if self._held is not None or torch.is_grad_enabled() or not self._forms_as_written():
            return self.materialise()
        known = self._decided_by()
        if known is None or is_transformed(known[1]):
            return self.materialise()
        kind = type(self.constraint)
        return made_once(self.constraint, (kind, kind.materialise, type(self)._form, known[0]), self._form, *known[1])

    def _forms_as_written(self) -> bool:
        """Whether W is formed by what `_decided_by` is about: by no method that was replaced, or is of a derived class alone."""
        own = type(self).materialise is _MATERIALISE and self._says_what_decides
        return own and not any(name in vars(self) for name in ("materialise", "_form", "_decided_by"))

    @torch.no_grad()
    def hold(self) -> None:
        """Form W for the last time: from now on the layer runs with the numbers that it has now, whatever its parameters are.

        For the private copies that networks keep: a layer that holds W can be trained and loaded no more.
        """
        operator, guarantee = self._form()
        self._held = operator.rebuild(tuple(tensor.detach().clone() for tensor in operator.tensors)), guarantee

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self._held is not None:
            operator, guarantee = self._held
            like = fn(torch.zeros((), dtype=operator.tensors[0].real.dtype, device=operator.tensors[0].device))
            moved = operator.to(like.dtype)
            moved = moved.rebuild(tuple(tensor.to(like.device) for tensor in moved.tensors))
            self._held = moved, None if guarantee is None else guarantee.on(moved)
        return self

    def guarantee(self) -> Guarantee:
        """What is promised of W as it runs.

        Raises:
            GuaranteeError: nothing is.
        """
        found = self.materialise()[1]
        if found is None:
            raise GuaranteeError(
                f"{type(self).__name__}: this layer has no guarantee; its equilibrium may not be unique"
            )
        return found


_MATERIALISE = ConstrainedLayer.materialise  # as it is written here, whatever is put in its place later
