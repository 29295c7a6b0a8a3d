"""What recipes of several papers measure of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wellposed.reproduction.cell import Record, Workspace
from wellposed.reproduction.networks import facts, trained
from wellposed.reproduction.robustness import robustness
from wellposed.training.config import TrainConfig


def image_classifier(
    workspace: Workspace, *, config: dict[str, Any], radii: Sequence[float], limit: int | None,
    attack: dict[str, Any] | None = None, norm: str = "2",
) -> dict[str, Any]:  # fmt: skip
    """Train, certify and, where that is asked for, attack one classifier of images.

    Args:
        workspace: of the recipe.
        config: of the training, see `settings_of`.
        radii: see `robustness`.
        limit: see `robustness`.
        attack: see `robustness`.
        norm: see `robustness`.

    Returns:
        What `facts` and `robustness` say.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    return {
        **facts(workspace, run, limit),
        **robustness(workspace, run, radii=radii, limit=limit, attack=attack, norm=norm),
    }


def accuracy(
    workspace: Workspace, *, config: dict[str, Any], limit: int | None, data: str | None = None
) -> dict[str, Any]:
    """Train a classifier of images, and certify nothing about it; what `facts` says of it.

    Args:
        workspace: of the recipe.
        config: of the training, see `settings_of`.
        limit: only the first so many test images.
        data: another set whose test images to take; None for the training's own.
    """
    return facts(workspace, trained(workspace, TrainConfig.from_dict(config)), limit, data)


def best_rule(measured: dict[str, Any]) -> list[float]:
    """Certified accuracies in % by the tightest rule of what `robustness` gave, one for each radius."""
    *_, values = measured["certified"].values()
    return list(values)


def of_task(records: Sequence[Record], *measures: Callable[..., dict[str, Any]]) -> list[Record]:
    """The records of some measurements, in the order in which they come."""
    return [record for record in records if any(map(record.is_of, measures))]


def by_seed(records: Sequence[Any]) -> list[list[Any]]:
    """Records of one setting together, which differ in the seed alone, in the order in which they come."""
    groups: dict[str, list[Any]] = {}
    for record in records:
        config = dict(record.settings["config"])
        config.pop("seed")
        groups.setdefault(str(config), []).append(record)
    return list(groups.values())
