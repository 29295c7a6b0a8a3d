"""What every data set answers, and what an image set is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, TensorDataset
from typing_extensions import override

from wellposed.errors import InputError, check

if TYPE_CHECKING:
    from wellposed.data.graphs import GraphData


class Data(ABC):
    """A set of labelled samples, divided into a part to train on, named ``"train"``, and parts to evaluate on.

    Attributes:
        inputs: what one sample is: ``"images"`` or ``"graphs"``.
        name: of the set.
    """

    inputs: ClassVar[str]
    name: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, (channels, height, width), or of the features of one node, (features,)."""

    @property
    @abstractmethod
    def evaluated(self) -> tuple[str, ...]:
        """Names of the parts to evaluate on after every epoch; the first is ``"validation"``, to choose an epoch with."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes."""

    @abstractmethod
    def labels_of(self, part: str) -> Tensor:
        """Classes of the samples of a part, int64, shape (samples,)."""

    @abstractmethod
    def loader(self, part: str, batches: BatchSampler) -> DataLoader[Any]:
        """Batches of inputs and labels.

        Args:
            part: name of the part.
            batches: places of the samples of each batch in that part.
        """

    def evaluation_size(self, batch_size: int) -> int:
        """How many samples to evaluate at once where training takes ``batch_size`` of them."""
        return batch_size

    def as_images(self, argument: str) -> ImageData:
        """This set, if it is one of images.

        Args:
            argument: what asked for it, for the error: name and value of an argument.

        Raises:
            InputError: it has other samples.
        """
        self._refuse(argument, "images")

    def as_graphs(self, argument: str) -> GraphData:
        """This set, if it is one of graphs.

        Args:
            argument: what asked for it, for the error: name and value of an argument.

        Raises:
            InputError: it has other samples.
        """
        self._refuse(argument, "graphs")

    def _refuse(self, argument: str, needed: str) -> NoReturn:
        raise InputError(f"{argument}: a run on the {self.inputs} of {self.name}; this needs a run on {needed}")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ImageData(Data):
    """A set of labelled images.

    Attributes:
        name: of the set.
        train_x: training images, float32 pixels in [0, 1], shape (samples, channels, height, width).
        train_y: classes of the training images, int64, shape (samples,).
        test_x: test images, as ``train_x``.
        test_y: classes of the test images, as ``train_y``.
        mean: one number per channel, which models subtract from pixels.
        std: one number per channel, which models divide by.
        classes: number of classes.
        validation_x: images held out of training to choose an epoch with, as ``train_x``; None where nothing is chosen.
        validation_y: classes of these images, as ``train_y``.
    """

    inputs = "images"

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int = 10
    validation_x: Tensor | None = None
    validation_y: Tensor | None = None

    def __repr__(self) -> str:
        parts = {"training": self.train_y, "validation": self.validation_y, "testing": self.test_y}
        sizes = ", ".join(f"{len(labels)} for {use}" for use, labels in parts.items() if labels is not None)
        return f"ImageData({self.name}: {sizes}, of shape {self.shape}, {self.classes} classes)"

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train_x.shape[1:])

    @property
    @override
    def evaluated(self) -> tuple[str, ...]:
        return () if self.validation_y is None else ("validation",)

    def divided(self, share: float) -> ImageData:
        """This set with a share of the training images held out for validation: the same ones whatever the seed of a training.

        Args:
            share: of the training images, between 0 and 1; the number is rounded.

        Raises:
            InputError: nothing would be held out, or nothing left to train on.
        """
        count = round(share * len(self.train_y))
        check(0 < count < len(self.train_y), "validation", share, f"is {count} of {len(self.train_y)} training images")
        order = torch.randperm(len(self.train_y), generator=torch.Generator().manual_seed(0), device="cpu")
        held, rest = order[:count].sort().values, order[count:].sort().values
        return replace(
            self, train_x=self.train_x[rest], train_y=self.train_y[rest], validation_x=self.train_x[held],
            validation_y=self.train_y[held],
        )  # fmt: skip

    @override
    def labels_of(self, part: str) -> Tensor:
        return self._samples(part)[1]

    @override
    def loader(self, part: str, batches: BatchSampler) -> DataLoader[Any]:
        # Whole batches are indexed at once: collating image by image costs more than a training step.
        whole: Any = TensorDataset(*self._samples(part))
        return DataLoader(whole, sampler=batches, batch_size=None)

    def _samples(self, part: str) -> tuple[Tensor, Tensor]:
        """Images and classes of a part."""
        if part == "validation" and self.validation_x is not None and self.validation_y is not None:
            return self.validation_x, self.validation_y
        return {"train": (self.train_x, self.train_y), "test": (self.test_x, self.test_y)}[part]

    @override
    def evaluation_size(self, batch_size: int) -> int:
        return 1000

    @override
    def as_images(self, argument: str) -> ImageData:
        return self
