"""What every data set answers, and what an image set is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset
from typing_extensions import override

from wellposed.data.tasks import Classification, Task
from wellposed.errors import InputError, check

if TYPE_CHECKING:
    from wellposed.data.graphs import GraphData
    from wellposed.data.vectors import VectorData


@dataclass(frozen=True)
class Source:
    """Where a user's own data come from.

    Attributes:
        path: of the file or folder; empty for arrays in memory.
        sha256: of it.
        classes: names of the classes in their order; empty where they are numbers only.
        remarks: what a reader of every result must know, in words.
        columns: names of the columns of a table in their order, without the targets'; empty for other data.
    """

    path: str = ""
    sha256: str = ""
    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


class Data(ABC):
    """A set of labelled samples, divided into a part to train on, named ``"train"``, and parts to evaluate on.

    Attributes:
        inputs: what one sample is: ``"images"``, ``"vectors"`` or ``"graphs"``.
        name: of the set.
    """

    inputs: ClassVar[str]
    name: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, (channels, height, width), or of a vector or the features of one node, (features,)."""

    @property
    @abstractmethod
    def evaluated(self) -> tuple[str, ...]:
        """Names of the parts to evaluate on after every epoch; the first is ``"validation"``, to choose an epoch with."""

    @property
    @abstractmethod
    def task(self) -> Task:
        """What networks learn of it."""

    @abstractmethod
    def labels_of(self, part: str) -> Tensor:
        """What the outputs are compared with, for the samples of a part: see `task`."""

    @abstractmethod
    def loader(self, part: str, batches: Sampler[Any]) -> DataLoader[Any]:
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

    def as_vectors(self, argument: str) -> VectorData:
        """This set, if it is one of vectors.

        Args:
            argument: what asked for it, for the error: name and value of an argument.

        Raises:
            InputError: it has other samples.
        """
        self._refuse(argument, "vectors")

    def as_tensors(self, argument: str) -> TensorData:
        """This set, if its samples are tensors of one shape.

        Args:
            argument: what asked for it, for the error: name and value of an argument.

        Raises:
            InputError: it has other samples.
        """
        self._refuse(argument, "images or vectors")

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
class TensorData(Data):
    """A set of samples that are tensors of one shape.

    Attributes:
        name: of the set.
        train_x: training inputs, float32, shape (samples, ...).
        train_y: what their outputs are compared with, shape (samples, ...); see `task`.
        test_x: test inputs, as ``train_x``.
        test_y: as ``train_y``.
        mean: one number per channel of an image or per entry of a vector, which models subtract from inputs.
        std: as many numbers, which models divide by.
        validation_x: inputs held out of training to choose an epoch with, as ``train_x``; None where nothing is chosen.
        validation_y: as ``train_y``.
        source: of a user's own data; None for the sets that are known by name.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation_x: Tensor | None = None
    validation_y: Tensor | None = None
    source: Source | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """This set itself, which nothing changes: copies of what holds it share its samples."""
        return self

    def __repr__(self) -> str:
        parts = {"training": self.train_y, "validation": self.validation_y, "testing": self.test_y}
        sizes = ", ".join(f"{len(labels)} for {use}" for use, labels in parts.items() if labels is not None)
        return f"{type(self).__name__}({self.name}: {sizes}, of shape {self.shape}, {self.task})"

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train_x.shape[1:])

    @property
    @abstractmethod
    def units(self) -> str:
        """The units of inputs, which radii and constants are in, in words."""

    @property
    @abstractmethod
    def box(self) -> tuple[Tensor, Tensor]:
        """Least and largest values that inputs may have, each of a shape that is broadcast to that of one input."""

    @property
    @override
    def evaluated(self) -> tuple[str, ...]:
        return () if self.validation_y is None else ("validation",)

    def divided(self, share: float) -> Self:
        """This set with a share of the training samples held out for validation: the same ones whatever the seed of a training.

        Args:
            share: of the training samples, between 0 and 1; the number is rounded.

        Raises:
            InputError: nothing would be held out, or nothing left to train on.
        """
        count = round(share * len(self.train_y))
        check(
            0 < count < len(self.train_y),
            "validation",
            share,
            f"is {count} of {len(self.train_y)} training {self.inputs}; give another share, or 0 to train on all",
        )
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
    def loader(self, part: str, batches: Sampler[Any]) -> DataLoader[Any]:
        # Whole batches are indexed at once: collating sample by sample costs more than a training step.
        whole: Any = TensorDataset(*self._samples(part))
        return DataLoader(whole, sampler=batches, batch_size=None)

    def _samples(self, part: str) -> tuple[Tensor, Tensor]:
        """Inputs of a part, and what their outputs are compared with."""
        if part == "validation" and self.validation_x is not None and self.validation_y is not None:
            return self.validation_x, self.validation_y
        return {"train": (self.train_x, self.train_y), "test": (self.test_x, self.test_y)}[part]

    @override
    def evaluation_size(self, batch_size: int) -> int:
        return 1000

    @override
    def as_tensors(self, argument: str) -> TensorData:
        return self


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ImageData(TensorData):
    """A set of labelled images: float32 pixels in [0, 1], shape (samples, channels, height, width), and int64 classes.

    Attributes:
        classes: number of classes.
        learned: what networks learn of it; None for the classes.
    """

    inputs = "images"

    classes: int = 10
    learned: Task | None = None

    @property
    @override
    def task(self) -> Task:
        return Classification(self.classes) if self.learned is None else self.learned

    @property
    @override
    def units(self) -> str:
        return "pixels in [0, 1]"

    @property
    @override
    def box(self) -> tuple[Tensor, Tensor]:
        return torch.zeros((), device="cpu"), torch.ones((), device="cpu")

    @override
    def as_images(self, argument: str) -> ImageData:
        return self
