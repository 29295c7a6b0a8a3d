"""Tensors by name out of other programs' files, without running any code in them."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import CheckpointError, InputError, WellposedError, require

Tensors = dict[str, Tensor]
T = TypeVar("T")
_PREFIXES = ("mon.linear_module.", "nemon.linear_module.", "mon.", "model.", "module.")


class _Watched(dict[str, Tensor]):
    """Tensors by name that remember which ones were asked for."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__(tensors)
        self.rest = {name for name in tensors if not name.endswith("num_batches_tracked")}

    def __getitem__(self, name: str) -> Tensor:
        self.rest.discard(name)
        return super().__getitem__(name)


def read_tensors(path: Path) -> Tensors:
    """Float64 tensors of a file of `torch.save`, or of a ``.mat`` file up to version 7, by shortened names.

    Prefixes of modules are dropped, and weights of linear maps go by the name of the map.

    Raises:
        CheckpointError: the file is not a plain dictionary of tensors.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    content = _matlab(path) if path.suffix == ".mat" else _torch(path)
    found: Tensors = {}
    for name, tensor in content.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        name = name.removesuffix(".weight")
        if name in found:
            raise CheckpointError(f"{path}: two tensors for {name!r}")
        if tensor.is_complex() or tensor.layout != torch.strided:
            raise CheckpointError(f"{path}: {name} is complex or sparse")
        found[name] = tensor.detach().double()
    return found


def _torch(path: Path) -> Tensors:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files fail in many ways
        raise CheckpointError(
            f"{path}: not a plain dictionary of tensors, and nothing else is loaded, as it could run code ({str(error)[:200]})"
        ) from error
    plain = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    if not plain:
        raise CheckpointError(f"{path}: not a plain dictionary of tensors")
    return content


# The reader is written in C and may crash on broken files, so it works in a process of its own.
_MATLAB = """
import sys, numpy, scipy.io
content = scipy.io.loadmat(sys.argv[1])
arrays = {name: array.astype("f8", casting="safe") for name, array in content.items() if name[:2] != "__"}
numpy.savez(sys.stdout.buffer, **arrays)
"""


def _matlab(path: Path) -> Tensors:
    require("scipy.io", "train")
    found = subprocess.run([sys.executable, "-c", _MATLAB, str(path)], capture_output=True, check=False)
    if found.returncode:
        reason = found.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckpointError(f"{path}: not a readable .mat file of matrices ({reason[:200]})")
    with np.load(io.BytesIO(found.stdout), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


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
    tensors = _Watched(read_tensors(path))
    if layout not in layouts:
        raise InputError(f"as={layout!r}: unknown layout; use one of {', '.join(layouts)}")
    try:
        found = layouts[layout](tensors)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: has no tensor {error} as the layout {layout!r} needs; it has {sorted(tensors)}"
        ) from error
    except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        if isinstance(error, WellposedError):
            raise
        raise CheckpointError(f"{path}: the tensors' shapes do not fit together ({error})") from error
    if tensors.rest:
        raise CheckpointError(f"{path}: has tensors that the layout {layout!r} does not know: {sorted(tensors.rest)}")
    if not all(bool(torch.isfinite(part).all()) for part in parts(found)):
        raise CheckpointError(f"{path}: NaN or infinite weights")
    return found
