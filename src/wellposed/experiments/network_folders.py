"""Network folders of `wellposed.save`, certified on a user's data: their certificates are proved again first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from wellposed.data.own import load_to_evaluate
from wellposed.deployment import load
from wellposed.errors import InputError, check
from wellposed.experiments.radii import radii_of
from wellposed.experiments.tables import Row, Summary
from wellposed.numerics.norm import norm_named
from wellposed.training.about import AboutData
from wellposed.training.folder import RunFolder


def is_network_folder(path: Path) -> bool:
    """Whether a folder was written by `wellposed.save` rather than by a training."""
    folder = RunFolder(path)
    return folder.model.exists() and not folder.config.exists()


def refuse_network_folder(path: Path, command: str, mend: str) -> None:
    """Say in one line that a command is about runs, where a network folder was given.

    Args:
        path: of the folder.
        command: what was asked for.
        mend: what to do instead.

    Raises:
        InputError: it is a network folder.
    """
    if is_network_folder(path):
        raise InputError(f"run={str(path)!r}: is a network folder, not a run; {command} {mend}")


def certify_folder(
    path: Path, data: str | None, *, target: str, norm: str, radii: Sequence[float] | None, limit: int | None
) -> Summary:
    """Certified accuracy of what a network folder's file answers for a user's data.

    Args:
        path: of the folder.
        data: path of the data, see `load_to_evaluate`.
        target: column of a table with the classes.
        norm: of perturbations, one that the folder has a certificate for.
        radii: None for those that suit the data.
        limit: only the first so many samples; None for all.

    Raises:
        CertificateError: a certificate does not hold for the file.
        InputError: no data, or other inputs than the network's.
        DataError: the data are unusable.
    """
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    if data is None:
        raise InputError(f"data=None: {path} is a network folder, which has no data of its own; give --data FILE")
    folder, name = load(path), norm_named(norm)
    shape, place = folder.network.input_shape, Path(data)
    if folder.network.on_graphs:
        raise InputError(f"run={str(path)!r}: takes graphs; certify the run that it came from")
    samples = load_to_evaluate(place, classes=None, target=target)
    if tuple(samples.x.shape[1:]) != shape:
        raise InputError(f"data={data!r}: one input has shape {tuple(samples.x.shape[1:])}; the network takes {shape}")
    x, y = samples.x[:limit], samples.y[:limit]
    logits, error = folder.network(x)
    check(
        int(y.max()) < logits.shape[1],
        "data",
        data,
        f"has the label {int(y.max())}; there are {logits.shape[1]} classes",
    )
    found = folder.radii(x, y, norm=name)
    right = (logits.argmax(1) == y) & torch.isfinite(error)
    clean = float(right.double().mean())
    images = len(shape) == 3
    spread = samples.x.double().std(0, correction=0)
    scale = 1.0 if images else float(spread[spread > 0].min()) if bool((spread > 0).any()) else 1.0
    about = AboutData(
        "images" if images else "vectors",
        True,
        "pixel units" if images else f"the columns' own units in {place.name}",
        scale,
    )
    rows = [
        Row(radius, clean, None, float(((found >= radius) & (found > 0)).double().mean()), None)
        for radius in (radii_of(about) if radii is None else radii)
    ]
    said = [*samples.remarks, f"norm {name}; its certificates were proved again from the files"]
    return Summary(
        str(path), len(y), about.inputs, 1.0 - clean, folder.claims[name].lipschitz, None, rows, said, len(y), about.units
    )  # fmt: skip
