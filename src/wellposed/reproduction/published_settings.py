"""What a page says of settings of training: those of the records, with the paper's own beside where it states others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellposed.reproduction.cell import Record

Settings = Mapping[str, Mapping[str, Any]]


def settings_beside(published: Settings, records: Sequence[Record]) -> str:
    """One sentence for each family of networks that the paper trains with other settings; empty where there is none.

    Args:
        published: by the name of a family, what the paper states: a value, or words where its setting is of another kind. Names
            with a point, as ``family.epsilon``, are options of the family.
        records: of a recipe.
    """
    sentences = []
    for family, settings in published.items():
        configs = [record.settings["config"] for record in records if "config" in record.settings]
        members = [config for config in configs if config["family"]["name"] == family]
        found = []
        for name, theirs in settings.items():
            ours = sorted({_value(config, name) for config in members})
            if members and ours != [theirs]:
                found.append(
                    f"{name.removeprefix('family.')} {' or '.join(f'{value:g}' for value in ours)} ({_words(theirs)})"
                )
        if found:
            sentences.append(f"Settings of {family} networks here and, in brackets, in the paper: {', '.join(found)}.")
    return " ".join(sentences)


def _value(config: Mapping[str, Any], name: str) -> float:
    inner = config["family"] if name.startswith("family.") else config
    return float(inner[name.removeprefix("family.")])


def _words(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
