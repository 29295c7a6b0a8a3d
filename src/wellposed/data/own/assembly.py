"""A data set of a user's own arrays: its parts, its normalisation and its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wellposed.data.base import ImageData, Source, TensorData
from wellposed.data.own.arrays import Samples, as_array, classes_tensor, inputs_tensor, numbers_tensor
from wellposed.data.tasks import Classification, Regression, Task
from wellposed.data.vectors import VectorData
from wellposed.errors import DataError, checked_options, choices
from wellposed.names import TASKS

PARTS = ("train", "validation", "test")
_EVERY = 5  # of this many samples, one goes to the test part where none was given


@checked_options
def from_arrays(
    arrays: Mapping[str, Any], *, name: str = "arrays", task: str = "classification", source: Source | None = None
) -> TensorData:
    """A data set of arrays ``x_train``, ``y_train`` and, where there are more parts, ``x_validation``, ``x_test`` and so on.

    Without a test part, a fifth of the training samples becomes it: of every class the same share, drawn with seed 0.

    Args:
        arrays: arrays or tensors by name. Inputs are tables, shape (samples, features), or images, see `inputs_tensor`; targets
            are classes 0…k − 1, or numbers of shape (samples,) or (samples, outputs).
        name: of the set, and what errors call it.
        task: ``"classification"`` or ``"regression"``.
        source: where they come from; None for memory.

    Raises:
        DataError: an array is missing or unusable; the message names it.
        InputError: no such task.
    """
    choices("task", task, TASKS)
    return assembled(samples_of(arrays, name), name=name, task=task, source=source or Source())


def samples_of(arrays: Mapping[str, Any], name: str) -> dict[str, Samples]:
    """Arrays as samples by part; see `from_arrays`.

    Args:
        arrays: by name.
        name: of the set.

    Raises:
        DataError: an array is missing, unknown or has no numbers.
    """
    allowed = [f"{axis}_{part}" for part in PARTS for axis in "xy"]
    if unknown := sorted(set(arrays) - set(allowed)):
        raise DataError(
            f"{name}: has an array {unknown[0]!r}; needs x_train and y_train, and may have {', '.join(allowed[2:])}"
        )
    found = [part for part in PARTS if {f"x_{part}", f"y_{part}"} & set(arrays)]
    return {part: _samples(arrays, part, name) for part in found}


def _samples(arrays: Mapping[str, Any], part: str, name: str) -> Samples:
    for array in (f"x_{part}", f"y_{part}"):
        if array not in arrays:
            raise DataError(
                f"{name}: has no array {array}; needs x_{part} and y_{part}, and has {', '.join(arrays) or 'none'}"
            )
    names = f"{name}: x_{part}", f"{name}: y_{part}"
    return Samples(as_array(names[0], arrays[f"x_{part}"]), as_array(names[1], arrays[f"y_{part}"]), *names)


def assembled(parts: Mapping[str, Samples], *, name: str, task: str, source: Source) -> TensorData:
    """A data set of checked parts; see `from_arrays`.

    Args:
        parts: by name, ``"train"`` among them.
        name: of the set.
        task: see `from_arrays`.
        source: where they come from.

    Raises:
        DataError: parts do not fit each other, or have too few samples or classes.
    """
    if "train" not in parts:
        raise DataError(f"{name}: has no training part; needs x_train and y_train")
    tensors = {part: tensors_of(samples, task) for part, samples in parts.items()}
    train_x, train_y = tensors["train"]
    for part, (x, y) in tensors.items():
        if x.shape[1:] != train_x.shape[1:]:
            raise DataError(
                f"{parts[part].x_name}: one input has shape {tuple(x.shape[1:])}, in the training part {tuple(train_x.shape[1:])}"
            )
        if y.shape[1:] != train_y.shape[1:]:
            raise DataError(f"{parts[part].y_name}: has {y.shape[1]} outputs, the training part {train_y.shape[1]}")
    learned: Task = _numbers(tensors, parts) if task == "regression" else _classes(tensors, parts, source.classes)
    remarks = list(source.remarks)
    if "test" not in tensors:
        tensors["train"], tensors["test"] = _split(train_x, train_y, parts["train"], source.classes, learned)
        remarks.append(
            f"no test part was given: {len(tensors['test'][1])} of {len(train_y)} samples were split off with seed 0"
        )
    return _data(tensors, name, learned, replace(source, remarks=tuple(remarks)))


def tensors_of(samples: Samples, task: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one part as networks take them.

    Args:
        samples: of the part.
        task: see `from_arrays`.

    Raises:
        DataError: they are unusable; see `inputs_tensor`.
    """
    if len(samples.x) != len(samples.y):
        raise DataError(
            f"{samples.y_name}: has {len(samples.y)} targets for the {len(samples.x)} samples of {samples.x_name}"
        )
    targets = numbers_tensor if task == "regression" else classes_tensor
    return inputs_tensor(samples.x_name, samples.x), targets(samples.y_name, samples.y)


def _classes(
    tensors: Mapping[str, tuple[Tensor, Tensor]], parts: Mapping[str, Samples], names: Sequence[str]
) -> Classification:
    """The classes of the training part, which the others may not go beyond."""
    name, found = parts["train"].y_name, tensors["train"][1].unique()
    count = int(found[-1]) + 1
    if len(found) == 1:
        one = names[int(found[0])] if names else int(found[0])
        raise DataError(
            f"{name}: all samples have the class {one}; add samples of another one, two are needed at least"
        )
    if len(found) < count:
        missing = next(label for label in range(count) if label not in found.tolist())
        raise DataError(
            f"{name}: has labels up to {count - 1}, but none is {missing}; classes are 0…k − 1, each with samples"
        )
    for part, (_, y) in tensors.items():
        if int(y.max()) >= count:
            raise DataError(
                f"{parts[part].y_name}: has the label {int(y.max())}; the training part has the classes 0…{count - 1}"
            )
    return Classification(count)


def _numbers(tensors: Mapping[str, tuple[Tensor, Tensor]], parts: Mapping[str, Samples]) -> Regression:
    """Numbers to estimate, with mean and standard deviation of each in the training part."""
    y = tensors["train"][1].double()
    mean, std = y.mean(0), y.std(0, correction=0)
    constant = std.float() <= torch.finfo(torch.float32).tiny
    if bool(constant.all()):
        raise DataError(
            f"{parts['train'].y_name}: is {float(y[0, 0]):.6g} for all samples; there is nothing to estimate"
        )
    return Regression(y.shape[1], tuple(mean.tolist()), tuple(torch.where(constant, 1.0, std).tolist()))


def _split(
    x: Tensor, y: Tensor, given: Samples, names: Sequence[str], learned: Task
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test part: every fifth sample of a random order, class by class where there are classes."""
    classes = learned.has_logits
    if len(x) < _EVERY:
        words = f"{len(x)} samples are too few to split a test part off"
        raise DataError(f"{given.x_name}: {words}; needs {_EVERY} at least: {given.more}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0), device="cpu")
    if classes:
        order = order[torch.argsort(y[order], stable=True)]
    held = torch.arange(len(x), device="cpu") % _EVERY == _EVERY // 2
    test, rest = order[held].sort().values, order[~held].sort().values
    if classes and (gone := sorted(set(y.tolist()) - set(y[rest].tolist()))):
        count, few = int((y == gone[0]).sum()), names[gone[0]] if names else gone[0]
        words = f"too few samples of the class {few}, {count}, to split a test part off"
        raise DataError(f"{given.y_name}: has {words}: {given.more}")
    return (x[rest], y[rest]), (x[test], y[test])


def _data(tensors: Mapping[str, tuple[Tensor, Tensor]], name: str, learned: Task, source: Source) -> TensorData:
    """The set, with mean and standard deviation of every channel or feature of its training part."""
    (train_x, train_y), (test_x, test_y) = tensors["train"], tensors["test"]
    validation_x, validation_y = tensors.get("validation", (None, None))
    axes = (0, 2, 3) if train_x.ndim == 4 else (0,)
    mean, std = train_x.double().mean(axes), train_x.double().std(axes, correction=0)
    faint = (std.float() > 0.0) & (std.float() <= torch.finfo(torch.float32).tiny)  # no float32 is one over these
    if bool(faint.any()):
        place = int(faint.nonzero()[0])
        what = f"column {source.columns[place]!r}" if source.columns else f"channel or feature {place}"
        raise DataError(
            f"{name}: {what}: varies by {float(std[place]):.2g} only, too little for float32; write it in another unit"
        )
    std = torch.where(std.float() > 0.0, std, 1.0)  # what never varies is only moved to zero
    kind = ImageData if train_x.ndim == 4 else VectorData
    return kind(
        name=name, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y, mean=tuple(mean.tolist()),
        std=tuple(std.tolist()), validation_x=validation_x, validation_y=validation_y, learned=learned, source=source,
    )  # fmt: skip
