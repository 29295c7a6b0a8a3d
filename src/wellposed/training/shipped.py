"""The presets that ship with the package, as files: what they are called, show and take."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Shipped:
    """One preset.

    Attributes:
        family: of the network.
        data: name of the set.
        shows: what it is for.
        minutes: of training, as measured on one core; None where it was not measured.
        settings: of `TrainConfig`.
    """

    family: str
    data: str
    shows: str
    minutes: float | None
    settings: dict[str, Any]


def shipped_presets() -> dict[str, Shipped]:
    """The presets by name; names of networks as large as published ones begin with ``papers/``."""
    folder = resources.files("wellposed.training") / "presets"
    found = {}
    for prefix, place in (("", folder), ("papers/", folder / "papers")):
        for entry in sorted(place.iterdir(), key=lambda item: item.name):
            if entry.name.endswith(".toml"):
                settings = tomllib.loads(entry.read_text(encoding="utf-8"))
                about = settings.pop("about")
                found[prefix + entry.name.removesuffix(".toml")] = Shipped(
                    settings["family"]["name"], settings["data"], about["shows"], about.get("minutes"), settings
                )
    return found
