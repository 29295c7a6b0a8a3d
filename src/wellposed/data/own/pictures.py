"""Folders of images, a class for every sub-folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wellposed.data.files import readable
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
            three. Hidden files are no images.
        classes: names of classes in their order; empty for those of the training part, sorted, which must be there then.

    Raises:
        DataError: no images, images of several sizes, or one that cannot be read; the message names it.
        MissingExtraError: Pillow is not installed.
    """
    inside = _folders(path)
    others = [entry for entry in inside if entry.name not in _PARTS]
    if (path / "train").is_dir() and others:
        raise DataError(f"{others[0]}: beside train there may be {', '.join(_PARTS[1:])} only")
    divided = bool(inside) and not others
    roots = {part: path / part for part in _PARTS if (path / part).is_dir()} if divided else {"train": path}
    if "train" not in roots and not classes:
        raise DataError(f"{path}: has no folder train; put the images to train on there, a sub-folder for every class")
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
    one = next(iter(roots))
    first, size = files[one][0][0], pixels[one][0].shape
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


def _folders(root: Path) -> list[Path]:
    """The sub-folders that are not hidden, in order."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path) -> dict[str, list[Path]]:
    """Image files by the names of their classes, both in order."""
    found = {}
    for folder in _folders(root):
        files = sorted(
            file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
        )
        if not files:
            raise DataError(f"{folder}: has no images ({', '.join(_SUFFIXES)}); every sub-folder is a class")
        found[folder.name] = files
    if not found:
        raise DataError(f"{root}: has no sub-folders; every class needs one with its images")
    return found


def _pixels(file: Path) -> np.ndarray:
    """Shape (height, width, 3), uint8."""
    image = require("PIL.Image", "train")
    with readable(file, "a readable image", "put an intact one there, or take it away"), image.open(file) as opened:
        if opened.mode not in _MODES:
            words = f"has pixels of mode {opened.mode!r}; convert it to 8 bits, grey or RGB, without transparency"
            raise DataError(f"{file}: {words}")
        return np.asarray(opened.convert("RGB"))
