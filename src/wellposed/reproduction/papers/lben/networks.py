"""The networks of the paper, and what tables call them."""

from __future__ import annotations

from typing import Any

from wellposed.reproduction.cell import Record
from wellposed.reproduction.networks import preset_with, settings_of
from wellposed.training.config import TrainConfig

SEEDS = (0, 1, 2)
WIDTH = 80
EPOCHS = 40  # as published
RADII = (0.1, 0.3, 0.5, 1.0)  # Euclidean, pixels in [0, 1]
MONDEQ = "mondeq"
UNCONSTRAINED = "deq"
LIMIT_QUICK = 300


def mnist(kind: float | str, *, seed: int, quick: bool, width: int = WIDTH) -> TrainConfig:
    """A dense network on MNIST.

    Args:
        kind: γ of a Lipschitz-bounded network, zero for well-posedness alone; or the name of another family.
        seed: of the training.
        quick: whether to train one narrow network for one epoch.
        width: of the state.
    """
    changes: dict[str, Any] = {"seed": seed, "epochs": 1 if quick else 15}
    options: dict[str, Any] = {"width": min(width, 20) if quick else width}
    if kind == MONDEQ:
        return preset_with("mnist-plain", family={**options, "m": 1.0}, **changes)
    if kind == UNCONSTRAINED:
        return TrainConfig.from_dict(
            {"data": "mnist", "family": {"name": UNCONSTRAINED, "activation": "relu", **options}, **changes}
        )
    return preset_with("lben-1", family={**options, "gamma": kind}, **changes)


def label(config: dict[str, Any]) -> str:
    """What tables call a network of these settings."""
    family = config["family"]
    if "gamma" in family:
        return f"γ = {family['gamma']:g}" if family["gamma"] else "γ = ∞"
    return {MONDEQ: "monDEQ", UNCONSTRAINED: "unconstrained"}.get(family["name"].removesuffix("-conv"), "explicit")


def label_of(record: Record) -> str:
    """What tables call a record's network."""
    return label(record.settings["config"])


def settings(kind: float | str, *, seed: int, quick: bool, width: int = WIDTH) -> dict[str, Any]:
    """`mnist` as settings of a cell."""
    return settings_of(mnist(kind, seed=seed, quick=quick, width=width))
