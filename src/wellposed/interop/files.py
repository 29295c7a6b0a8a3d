"""Tensors by name out of other programs' files, without running any code in them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from wellposed.errors import CheckpointError, InputError, WellposedError
from wellposed.interop.matlab import read_matlab

Tensors = dict[str, Tensor]
T = TypeVar("T")
_PREFIXES = ("mon.", "nemon.", "linear_module.", "model.", "module.")
_MANY = 12  # names in a message


def read_tensors(path: Path) -> Tensors:
    """Float64 tensors of a file of `torch.save`, or of a ``.mat`` file up to version 7, by shortened names.

    Prefixes of modules are dropped, and weights of linear maps go by the name of the map. A file may hold a module under two
    prefixes, with the same numbers.

    Raises:
        CheckpointError: the file is not a plain dictionary of tensors with numbers.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: " + ("not a file" if path.exists() else "no such file"))
    if not path.stat().st_size:
        raise CheckpointError(f"{path}: the file is empty")
    content = read_matlab(path) if path.suffix == ".mat" else _torch(path)
    modules: dict[str, Tensors] = {}
    for name, tensor in content.items():
        short = _without_prefixes(name)
        module = modules.setdefault(name.removesuffix(short), {})
        short = short.removesuffix(".weight")
        if short in module:
            raise CheckpointError(f"{path}: two tensors for {short!r}")
        module[short] = _numbers(path, name, tensor)
    found: Tensors = {}
    owner: dict[str, str] = {}
    for prefix, module in modules.items():
        for name, tensor in module.items():
            if name in found:
                _check_copy(path, name, modules[owner[name]], module)
            found[name], owner[name] = tensor, prefix
    return found


def _without_prefixes(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return _without_prefixes(name.removeprefix(prefix))
    return name


def _check_copy(path: Path, name: str, first: Tensors, second: Tensors) -> None:
    """Refuse two tensors of one name, unless their modules are copies of each other."""
    if first.keys() != second.keys():
        raise CheckpointError(f"{path}: two tensors for {name!r}, in modules that are not copies of each other")
    if not torch.equal(first[name], second[name]):
        raise CheckpointError(f"{path}: two tensors for {name!r} that differ; which one is right is not known")


def _numbers(path: Path, name: str, tensor: Tensor) -> Tensor:
    kinds = {
        "complex": tensor.is_complex(), "sparse": tensor.layout != torch.strided, "quantised": tensor.is_quantized,
        "without numbers (of the device meta)": tensor.is_meta, "nested": tensor.is_nested,
    }  # fmt: skip
    for kind, is_so in kinds.items():
        if is_so:
            raise CheckpointError(f"{path}: {name} is {kind}; save plain tensors of real numbers")
    return tensor.detach().double()


def _torch(path: Path) -> Tensors:
    if broken := _broken(path):
        raise CheckpointError(f"{path}: {broken}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files fail in many ways
        raise CheckpointError(f"{path}: {_reason(path, error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a plain dictionary of tensors, but a {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            nested = isinstance(value, dict) and any(isinstance(inner, Tensor) for inner in value.values())
            raise CheckpointError(
                f"{path}: not a plain dictionary of tensors: the entry {name!r} is a {type(value).__name__}"
                + ("; save that entry on its own" if nested else "")
            )
    return content


def _broken(path: Path) -> str:
    """What is wrong with an archive, whose checksums torch does not look at; empty where nothing is, or it is none."""
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            return ""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # broken files fail in many ways
        return f"a truncated or corrupted zip archive ({_brief(error)})"
    return f"a corrupted zip archive: the checksum of {broken!r} is wrong" if broken is not None else ""


def _reason(path: Path, error: Exception) -> str:
    """Why a file was not loaded, in words."""
    with path.open("rb") as stream:
        start = stream.read(9)
    if start[8:] == b"{":
        return "a file of safetensors, not of torch.save; load it with safetensors.torch and save the dictionary with torch.save"
    if isinstance(error, pickle.UnpicklingError):
        return f"not a plain dictionary of tensors, and nothing else is loaded, as it could run code ({_brief(error)})"
    if isinstance(error, EOFError):
        return "the file ends too early: it is truncated"
    return f"not a readable file of torch.save with a plain dictionary of tensors: truncated or corrupted ({_brief(error)})"


def _brief(error: Exception) -> str:
    """The part of torch's message that tells what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "WeightsUnpickler error" in line or line.startswith("Unsupported")]
    return (telling or lines or [type(error).__name__])[0][:200]


def names_of_linear(*maps: str) -> list[str]:
    """Names of the weights and biases of linear maps."""
    return [name for linear in maps for name in (linear, f"{linear}.bias")]


def take(tensors: Tensors, *names: str, optional: Iterable[str] = ()) -> None:
    """Refuse a file that lacks a tensor of a layout, or has one that the layout does not know.

    Args:
        tensors: of the file.
        names: what the layout needs.
        optional: what it may have besides.

    Raises:
        CheckpointError: with the names of what is missing, and of what is left over.
    """
    missing = [name for name in names if name not in tensors]
    left = [name for name in tensors if name not in {*names, *optional} and not name.endswith("num_batches_tracked")]
    reasons = [f"has no tensor {_listed(missing)}"] if missing else []
    reasons += [f"has {_listed(left)}, which it does not know"] if left else []
    if reasons:
        raise CheckpointError("; ".join(reasons))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(map(repr, sorted(names)[:_MANY])) + more


def check_layout(layout: str, known: tuple[str, ...]) -> None:
    """Refuse an unknown layout."""
    if layout not in known:
        raise InputError(f"as={layout!r}: unknown layout; use one of {', '.join(known)}")


def read_layout(path: Path, layout: str, reader: Callable[[Tensors], T], parts: Callable[[T], list[Tensor]]) -> T:
    """What a layout makes of a file.

    Args:
        path: see `read_tensors`.
        layout: its name, for errors.
        reader: of the layout; it refuses what it does not know, see `take`.
        parts: the tensors of a result, which must be finite.

    Raises:
        CheckpointError: see `read_tensors`; or the file has other tensors than the layout, or NaN or infinite ones.
    """
    tensors = read_tensors(path)
    try:
        found = reader(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: as the layout {layout!r}: {error}") from error
    except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        if isinstance(error, WellposedError):
            raise
        raise CheckpointError(
            f"{path}: as the layout {layout!r}: the tensors' shapes do not fit together ({error})"
        ) from error
    if not all(bool(torch.isfinite(part).all()) for part in parts(found)):
        raise CheckpointError(f"{path}: NaN or infinite weights")
    return found


def number(scale: Tensor, name: str) -> float:
    """The one entry of a tensor.

    Args:
        scale: the tensor.
        name: of it, for errors.
    """
    if scale.numel() != 1:
        raise CheckpointError(f"{name}: has shape {tuple(scale.shape)}, must be a number")
    return float(scale)
