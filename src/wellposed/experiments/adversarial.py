"""The nearest adversarial examples of a run on images, as pictures beside their originals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.errors import CheckpointError, require
from wellposed.experiments.pages import Picture, embedded
from wellposed.training.files import read_json

_KEYS = {"index", "distance", "label", "prediction", "image", "adversarial"}


@dataclass(frozen=True)
class Pair:
    """A test image, an adversarial one and their difference.

    Attributes:
        caption: classes and distance, in words.
        pictures: the three.
    """

    caption: str
    pictures: tuple[Picture, ...]


def pairs(path: Path, classes: Sequence[str]) -> list[Pair]:
    """What attacking a run noted of the nearest adversarial examples, nearest first; none where it noted nothing.

    Args:
        path: of the file.
        classes: their names; empty where they have none.

    Raises:
        CheckpointError: the file is damaged.
    """
    return [_pair(entry, classes) for entry in _examples(path)] if path.exists() else []


def _examples(path: Path) -> list[dict[str, Any]]:
    content = read_json(path, f"run `wellposed attack {path.parent}`")
    found = content.get("examples") if isinstance(content, dict) else content  # a list, before files had digests
    if not isinstance(found, list) or not all(isinstance(entry, dict) and set(entry) == _KEYS for entry in found):
        raise CheckpointError(
            f"{path}: corrupt (not what an attack writes); run `wellposed attack {path.parent}` again"
        )
    return found


def _pair(entry: dict[str, Any], classes: Sequence[str]) -> Pair:
    image, adversarial = (np.asarray(entry[key], dtype=float) for key in ("image", "adversarial"))
    difference = adversarial - image
    most = float(np.abs(difference).max())
    right, wrong = (classes[entry[key]] if classes else str(entry[key]) for key in ("label", "prediction"))
    name = f"test image {entry['index']}"
    caption = (
        f"{name}: {right} becomes {wrong} at the Euclidean distance {entry['distance']:.3g}; no pixel changes by more "
        f"than {most:.3g}"
    )
    pictures = (
        Picture("image", f"{name}, of class {right}", _png(image)),
        Picture("adversarial", f"the image nearby that is taken for {wrong}", _png(adversarial)),
        Picture("difference", f"their difference, of at most {most:.3g} in a pixel", _png(_signed(difference, most))),
    )
    return Pair(caption, pictures)


def _signed(difference: np.ndarray, most: float) -> np.ndarray:
    """Colours of a difference: white for none, red where it is positive, blue where it is negative; shape (3, height, width)."""
    signed = difference if difference.ndim == 2 else difference.mean(0)
    strength = signed / max(most, 1e-300)
    return np.stack([1.0 + strength.clip(-1.0, 0.0), 1.0 - np.abs(strength), 1.0 - strength.clip(0.0, 1.0)])


def _png(pixels: np.ndarray) -> str:
    """The data URI of an image.

    Args:
        pixels: in [0, 1], shape (height, width), or (channels, height, width) with one or three channels.
    """
    colours = np.broadcast_to(pixels if pixels.ndim == 3 else pixels[None], (3, *pixels.shape[-2:]))
    content = io.BytesIO()
    require("matplotlib.image", "train").imsave(content, np.moveaxis(colours.clip(0.0, 1.0), 0, -1), format="png")
    return embedded(content.getvalue(), "png")
