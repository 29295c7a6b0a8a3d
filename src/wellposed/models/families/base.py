"""What training by name needs of a family of networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wellposed.errors import check, check_fields

_DEEPEST = 10_000

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellposed.data.base import Data


@dataclass(frozen=True)
class Family(ABC):
    """Hyper-parameters of one family of networks; a dataclass that checks itself before anything is built."""

    name: ClassVar[str]
    domains: ClassVar[tuple[str, ...]] = ("images", "vectors")  # what its networks take: these or graphs
    scales_input: ClassVar[bool] = True  # whether pixels are divided by their standard deviation
    has_intervals: ClassVar[bool] = False  # whether its networks can be trained by bounds of intervals
    penalty_norms: ClassVar[tuple[str, ...]] = ("2",)  # in which `constant` is known

    width: int = 40
    """Number of state features."""

    rtol: float = 1e-3
    """Relative tolerance of the solves while training."""

    max_steps: int = 1000
    """Limit on the iterations of a solve."""

    def __post_init__(self) -> None:
        check_fields(self)
        check(self.width > 0, "width", self.width, "must be a positive integer")
        check(self.rtol > 0, "rtol", self.rtol, "must be positive")
        check(self.max_steps >= 1, "max_steps", self.max_steps, "must be at least 1")

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        """The blocks from flat inputs (node features, for graphs) to outputs, with fresh weights; the limit on steps comes later.

        Args:
            shape: of one image, (channels, height, width), before it was flattened; or (features,) of a vector or of a node.
            classes: number of outputs: of logits, where they are classes.
        """

    def model(self, data: Data) -> nn.Module:
        """The whole model for a data set, with fresh weights: of images and vectors, `classifier` around `build`.

        Its outputs are standardised until `wellposed.models.units.settle`, where the task is about numbers with units.
        """
        from wellposed.models.classifier import classifier
        from wellposed.models.units import ending_linear

        samples = data.as_tensors(f"data={data.name!r}")
        std = samples.std if self.scales_input else (1.0,) * len(samples.std)
        body = ending_linear(self.build(samples.shape, samples.task.outputs), samples.task)
        return classifier(body, samples.mean, std, samples.shape)

    def constant(self, model: nn.Module, norm: str) -> Tensor:
        """A Lipschitz constant to make small in training, with its graph; rounding is not counted.

        By default the product of the spectral norms of all linear layers, which product certificates multiply too.

        Args:
            model: what `model` gave.
            norm: of inputs and outputs, one of ``penalty_norms``.
        """
        from wellposed.models.penalties import product_of_norms

        return product_of_norms(model)


def check_depth(depth: int) -> None:
    """Raise an `InputError` unless a number of layers is one that a network can have."""
    check(1 <= depth <= _DEEPEST, "depth", depth, f"must be in 1…{_DEEPEST}")
