"""The dense networks of the paper on MNIST, and what tables call them."""

from __future__ import annotations

from typing import Any

from wellposed.reproduction.cell import Record
from wellposed.reproduction.networks import preset_with, settings_of

SEEDS = (0, 1, 2)
PENALTIES = (0.0, 1e-4, 1e-3, 1e-2)  # λ, on the ℓ∞ constant from pixels to logits
LIMIT_QUICK = 300
FOLLOW_UP = "notebook of Davydov et al. 2022"


def mnist(penalty: float, *, seed: int, quick: bool, mu: float = 0.0) -> dict[str, Any]:
    """Settings of a network with a hundred states, as published.

    Args:
        penalty: λ, on the ℓ∞ constant.
        seed: of the training.
        quick: whether to train a narrow network for one epoch.
        mu: bound of the log norm.
    """
    return settings_of(preset_with(
        "nemon", family={"width": 20 if quick else 100, "mu": mu}, lipschitz_penalty=penalty, penalty_norm="inf", seed=seed,
        epochs=1 if quick else 10,
    ))  # fmt: skip


def label_of(record: Record) -> str:
    """What tables call a record's network."""
    return label(record.settings["config"])


def label(config: dict[str, Any]) -> str:
    """What tables call a network of these settings."""
    return f"λ = {config['lipschitz_penalty']:g}"
