"""Folders of images, a class for every sub-folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wellposed.data.own.arrays import Samples
from wellposed.errors import DataError, require

_PARTS = ("train", "validation", "test")
_MODES = ("1", "L", "P", "RGB", "YCbCr")  # of which converting to RGB loses nothing
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def read_pictures(path: Path, classes: tuple[str, ...]) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """The images of a folder by part, and the names of their classes.

    Args:
        path: has folders ``train``, and ``validation`` and ``test`` where there are such parts, with a sub-folder of image files
            for every class; or these sub-folders themselves. Images have one size; where all are grey, they get one channel, else
            three.
        classes: names of classes in their order; empty for those of the training part, sorted.

    Raises:
        DataError: no images, images of several sizes, or one that cannot be read; the message names it.
        MissingExtraError: Pillow is not installed.
    """
    roots = (
        {part: path / part for part in _PARTS if (path / part).is_dir()}
        if (path / "train").is_dir()
        else {"train": path}
    )
    for entry in path.iterdir():
        if (path / "train").is_dir() and entry.is_dir() and entry.name not in _PARTS and not entry.name.startswith("."):
            raise DataError(f"{entry}: beside train there may be {', '.join(_PARTS[1:])} only")
    found = {part: _files(root) for part, root in roots.items()}
    names = classes or tuple(sorted(found["train"]))
    for part, folders in found.items():
        if unknown := sorted(set(folders) - set(names)):
            raise DataError(f"{roots[part] / unknown[0]}: a class that the training part does not have")
    files = {
        part: [(file, names.index(name)) for name, some in folders.items() for file in some]
        for part, folders in found.items()
    }
    pixels = {part: [_pixels(file) for file, _ in some] for part, some in files.items()}
    coloured = any((image != image[..., :1]).any() for images in pixels.values() for image in images)
    first, size = files["train"][0][0], pixels["train"][0].shape
    for part, images in pixels.items():
        for (file, _), image in zip(files[part], images, strict=True):
            if image.shape != size:
                raise DataError(
                    f"{file}: is {image.shape[1]}×{image.shape[0]} pixels, {first} {size[1]}×{size[0]}; needs one size"
                )
    parts = {}
    for part, images in pixels.items():
        x = np.stack([image.transpose(2, 0, 1) if coloured else image[None, ..., 0] for image in images])
        labels = np.array([label for _, label in files[part]], dtype=np.int64)
        parts[part] = Samples(
            x, labels, str(roots[part]), str(roots[part]), more="add images, or give folders train and test"
        )
    return parts, names


def _files(root: Path) -> dict[str, list[Path]]:
    """Image files by the names of their classes, both in order."""
    found = {}
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise DataError(f"{folder}: has no images ({', '.join(_SUFFIXES)}); every sub-folder is a class")
        found[folder.name] = files
    if not found:
        raise DataError(f"{root}: has no sub-folders; every class needs one with its images")
    return found


def _pixels(file: Path) -> np.ndarray:
    """Shape (height, width, 3), uint8."""
    image = require("PIL.Image", "train")
    try:
        with image.open(file) as opened:
            if opened.mode not in _MODES:
                words = f"has pixels of mode {opened.mode!r}; convert it to 8 bits, grey or RGB, without transparency"
                raise DataError(f"{file}: {words}")
            return np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file}: not a readable image ({error})") from error
