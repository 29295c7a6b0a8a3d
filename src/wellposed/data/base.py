"""What every data set answers, and what an image set is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, TensorDataset
from typing_extensions import override

from wellposed.errors import InputError

if TYPE_CHECKING:
    from wellposed.data.graphs import GraphData


class Data(ABC):
    """A set of labelled samples, divided into a part to train on, named ``"train"``, and parts to evaluate on.

    Attributes:
        inputs: what one sample is: ``"images"`` or ``"graphs"``.
        evaluated: names of the parts to evaluate on, the test set first.
        name: of the set.
    """

    inputs: ClassVar[str]
    evaluated: ClassVar[tuple[str, ...]] = ("test",)
    name: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, (channels, height, width), or of the features of one node, (features,)."""

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

    def __repr__(self) -> str:
        sizes = f"{len(self.train_y)} for training, {len(self.test_y)} for testing"
        return f"ImageData({self.name}: {sizes}, of shape {self.shape}, {self.classes} classes)"

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train_x.shape[1:])

    @override
    def labels_of(self, part: str) -> Tensor:
        return {"train": self.train_y, "test": self.test_y}[part]

    @override
    def loader(self, part: str, batches: BatchSampler) -> DataLoader[Any]:
        images = {"train": self.train_x, "test": self.test_x}[part]
        # Whole batches are indexed at once: collating image by image costs more than a training step.
        whole: Any = TensorDataset(images, self.labels_of(part))
        return DataLoader(whole, sampler=batches, batch_size=None)

    @override
    def evaluation_size(self, batch_size: int) -> int:
        return 1000

    @override
    def as_images(self, argument: str) -> ImageData:
        return self
