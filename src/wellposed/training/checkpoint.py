"""Weights as safetensors, with what they mean in the header; never a pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from wellposed.errors import CheckpointError, WellposedError, require
from wellposed.training.config import TrainConfig
from wellposed.training.files import write_bytes

FORMAT, SEALED_FORMAT = "wellposed-weights/1", "wellposed-weights/2"  # the latter with a digest


def save_weights(model: nn.Module, config: TrainConfig, path: Path) -> None:
    """Write weights and a header with their SHA-256; the file appears whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    safetensors = require("safetensors.torch", "train")
    settings = json.dumps(_plain(config))
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    header = {"format": SEALED_FORMAT, "config": settings, "sha256": _digest(settings, tensors)}
    write_bytes(path, safetensors.save(tensors, metadata=header))


def _digest(settings: str, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of settings and of the names, kinds, shapes and numbers of tensors."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(config: TrainConfig) -> dict[str, object]:
    import tomllib

    return tomllib.loads(config.to_toml())


def load_weights(model: nn.Module, config: TrainConfig, path: Path) -> None:
    """Read weights into a model of the same family and hyper-parameters.

    Raises:
        CheckpointError: the file is missing, is a pickle or corrupt, or belongs to another architecture.
    """
    header, tensors = read_weights(path)
    try:
        stored = TrainConfig.from_dict(json.loads(header["config"]))
    except (ValueError, TypeError, AttributeError, WellposedError) as error:
        raise CheckpointError(f"{path}: corrupt (its header holds no settings: {error}); train again") from error
    if stored.family != config.family:
        raise CheckpointError(f"{path}: its weights are of {_differing(stored, config)}; give those of this run")
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: {name} has shape {found.get(name, 'missing')}, the model needs {expected.get(name, 'none')}; the "
                "weights are of another architecture"
            )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: {name} has NaN or infinite entries; train again, with a smaller learning rate"
            )
    try:
        model.load_state_dict(tensors)
    except WellposedError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _differing(stored: TrainConfig, config: TrainConfig) -> str:
    """Where the families of two configurations differ, in words."""
    if stored.family.name != config.family.name:
        return f"the family {stored.family.name}, and the configuration names {config.family.name}"
    (first, second) = (dataclasses.asdict(one.family) for one in (stored, config))
    name = next(name for name in first if first[name] != second[name])
    return f"{name}={first[name]!r}, and the configuration has {name}={second[name]!r}"


def read_weights(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Header and tensors of a weight file.

    Raises:
        CheckpointError: the file is missing, is a pickle or corrupt, or was not written by this library.
    """
    safetensors = require("safetensors.torch", "train")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; is this a finished run?")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); give the --out of `wellposed train`"
        ) from error
    # A safetensors file starts with the length of its header, whose first byte may be that of a pickle, and a brace.
    if content[:2] == b"PK" or (content[:1] == b"\x80" and content[8:9] != b"{"):
        raise CheckpointError(f"{path}: a pickle, which can run code when loaded; convert it to safetensors first")
    try:
        tensors = safetensors.load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:  # safetensors raises its own type and OSError alike
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); train again") from error
    if header.get("format") not in (FORMAT, SEALED_FORMAT) or "config" not in header:
        raise CheckpointError(
            f"{path}: not written by wellposed (format {header.get('format')!r}, need {SEALED_FORMAT!r})"
        )
    if header["format"] == SEALED_FORMAT and header.get("sha256") != _digest(header["config"], tensors):
        raise CheckpointError(f"{path}: corrupt (its content is not that of its SHA-256); train again")
    return header, tensors
