"""The contract of a constraint: free parameters in, an operator with its guarantee out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.errors import check
from wellposed.guarantee import Guarantee
from wellposed.operators import Operator


def check_size(size: object, argument: str = "state_features") -> None:
    """Refuse anything but a positive integer."""
    check(isinstance(size, int) and size > 0, argument, size, "must be a positive integer")


class Projected(ABC):
    """Parameters that are kept in a set by projecting them onto it after every optimiser step."""

    @abstractmethod
    def project(self) -> None:
        """Move the parameters to the nearest point of the set."""


class SavedNumber(nn.Module, ABC):
    """A module with one number that decides what its weights mean, and so travels with them in state dicts.

    Attributes:
        saved: the name of that attribute.
    """

    saved: ClassVar[str]

    @abstractmethod
    def _is_usable(self, value: float) -> bool:
        """Whether the number may have this value."""

    def get_extra_state(self) -> Tensor:
        """The number, which must travel with the weights."""
        return torch.tensor(getattr(self, self.saved), dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        """Restore the number from a state dict."""
        value = float(state)
        check(self._is_usable(value), self.saved, value, "the checkpoint's value is unusable")
        setattr(self, self.saved, value)


class Constraint(nn.Module, ABC):
    """Free (unconstrained) parameters whose every value gives an operator that satisfies a theorem.

    Attributes:
        needs_monotone: whether the theorem is about activations with slopes in [0, 1] only.
    """

    needs_monotone: bool = True
    _says_what_decides: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._says_what_decides = "decided_by" in vars(cls)

    @abstractmethod
    def materialise(self) -> tuple[Operator, Guarantee | None]:
        """The state map as it will run, with the graph back to the free parameters, and what is promised of it, if anything.

        Raises:
            GuaranteeError: the stored numbers do not satisfy the theorem's condition.
        """

    def decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]] | None:
        """All that `materialise` makes W and its guarantee of: what is no tensor, and the tensors; None where that is not known.

        A constraint that gives it is materialised once for its numbers by evaluations that need no graph. Derived classes, which
        may form W of more, do not inherit it.
        """
        return None

    def known_parts(self) -> tuple[Hashable, tuple[Tensor, ...]] | None:
        """As `decided_by`, None where that is not about this very object, as a class derived it or a method was replaced."""
        replaced = any(callable(getattr(type(self), name, None)) for name in vars(self))
        return None if replaced or not self._says_what_decides else self.decided_by()

    @property
    @abstractmethod
    def state_features(self) -> int:
        """Number of features of the state."""

    def require_activation(self, activation: Activation) -> None:
        """Refuse an activation that the theorem is not about.

        Raises:
            InputError: its slopes do not suit the theorem.
        """
        if self.needs_monotone:
            activation.require_monotone(f"a layer with the constraint {type(self).__name__}")


class ImageConstraint(Constraint):
    """A constraint on a convolution of images.

    Attributes:
        image: height and width of the state.
    """

    image: tuple[int, int]

    @property
    def channels(self) -> int:
        """Channels of the state, which is what the first of the free kernels gives."""
        return next(self.parameters()).shape[0]

    @property
    @override
    def state_features(self) -> int:
        return self.channels * self.image[0] * self.image[1]

    def set_image(self, channels: int, image: tuple[int, int], taps: int) -> None:
        """Check and keep the sizes that all constraints on images have.

        Args:
            channels: of the state.
            image: height and width of the state.
            taps: rows and columns of the kernels.

        Raises:
            InputError: a size is not positive, or taps are even.
        """
        check_size(channels, "channels")
        check(len(image) == 2 and min(image) >= 1, "image", image, "must be a positive height and width")
        check(taps >= 1 and taps % 2 == 1, "taps", taps, "must be odd")
        self.image = (int(image[0]), int(image[1]))
