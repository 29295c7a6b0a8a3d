"""Tensors by name out of other programs' files, without running any code in them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from wellposed.errors import CheckpointError, InputError, require

Tensors = dict[str, Tensor]
T = TypeVar("T")
_PREFIXES = ("mon.linear_module.", "nemon.linear_module.", "mon.", "model.", "module.")


def read_tensors(path: Path) -> Tensors:
    """Float64 tensors of a file of `torch.save`, or of a ``.mat`` file up to version 7, by shortened names.

    Prefixes of modules are dropped, and weights of linear maps go by the name of the map.

    Raises:
        CheckpointError: the file is not a plain dictionary of tensors.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    content = _matlab(path) if path.suffix == ".mat" else _torch(path)
    found = {}
    for name, tensor in content.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        found[name.removesuffix(".weight")] = tensor.detach().double()
    return found


def _torch(path: Path) -> Tensors:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a plain dictionary of tensors, and nothing else is loaded, as it could run code ({str(error)[:200]})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: not a plain dictionary of tensors")
    return content


def _matlab(path: Path) -> Tensors:
    reader = require("scipy.io", "train")
    try:
        content = reader.loadmat(path)
        return {name: torch.from_numpy(array.astype("f8")) for name, array in content.items() if name[:2] != "__"}
    except (ValueError, TypeError, NotImplementedError, OSError, AttributeError, reader.matlab.MatReadError) as error:
        raise CheckpointError(f"{path}: not a readable .mat file of matrices ({str(error)[:200]})") from error


def read_layout(
    path: Path, layout: str, layouts: Mapping[str, Callable[[Tensors], T]], parts: Callable[[T], list[Tensor]]
) -> T:
    """What a layout makes of a file.

    Args:
        path: see `read_tensors`.
        layout: one of ``layouts``.
        layouts: readers by name.
        parts: the tensors of a result, which must be finite.

    Raises:
        CheckpointError: see `read_tensors`; or the file has other tensors than the layout, or NaN or infinite ones.
        InputError: an unknown layout.
    """
    tensors = read_tensors(path)
    if layout not in layouts:
        raise InputError(f"as={layout!r}: unknown layout; use one of {', '.join(layouts)}")
    try:
        found = layouts[layout](tensors)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: has no tensor {error} as the layout {layout!r} needs; it has {sorted(tensors)}"
        ) from error
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the tensors' shapes do not fit together ({error})") from error
    if not all(bool(torch.isfinite(part).all()) for part in parts(found)):
        raise CheckpointError(f"{path}: NaN or infinite weights")
    return found
