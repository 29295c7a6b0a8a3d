"""Why a number deviates from the published one: the same quantity of networks that were trained otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wellposed.reproduction.cell import Record
from wellposed.reproduction.view import Quantity, Table, View

Views = Mapping[str, Callable[[Sequence[Record]], View]]


@dataclass(frozen=True)
class Trial:
    """A quantity of a figure, of networks of another training.

    Attributes:
        training: what was done otherwise, such as ``"3 epochs at 0.001"``.
        quantity: as the figure has it of these networks.
    """

    training: str
    quantity: Quantity


def training_of(record: Record) -> str:
    """What tables call the training of a record's network: its epochs and its peak of the learning rate."""
    config: dict[str, Any] = record.settings["config"]
    return f"{config['epochs']} {'epoch' if config['epochs'] == 1 else 'epochs'} at {config['learning_rate']:g}"


def trials_of(view: Callable[[Sequence[Record]], View], records: Sequence[Record]) -> list[Trial]:
    """The quantities of a figure for every training among some records.

    Args:
        view: of the figure, which is shown the records of one training at a time.
        records: of networks that were trained otherwise than the figure's.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(training_of(record), []).append(record)
    return [
        Trial(training, quantity)
        for training, group in groups.items()
        for part in view(group)
        for quantity in part.quantities
        if quantity.values
    ]


def explanation(quantity: Quantity, trials: Sequence[Trial], command: str) -> str:
    """A sentence on whether training explains that a quantity deviates from the published value; empty where nothing was tried.

    Args:
        quantity: measured and published.
        trials: of the same figure.
        command: that ran the trials.
    """
    published = quantity.published
    found = [
        (trial.quantity.mean, trial.training)
        for trial in trials
        if (trial.quantity.setting, trial.quantity.name) == (quantity.setting, quantity.name)
    ]
    if published is None or not found or not quantity.deviates:
        return ""
    (lowest, after_least), (highest, after_most) = (
        bound([(quantity.mean, "the training of this figure"), *found]) for bound in (min, max)
    )
    extent = f"{lowest:.4g} after {after_least}, {highest:.4g} after {after_most} (`{command}`)"
    if lowest - published.tolerance <= published.value <= highest + published.tolerance:
        return f"Training alone moves it past the published value: {extent}."
    return f"Not explained by the training: {extent}, and the published value is outside."


def table_of(title: str, views: Views, records: Sequence[Record]) -> Table:
    """All published quantities of some figures, of networks that were trained otherwise.

    Args:
        title: of the table.
        views: of the figures, by the names of their recipes.
        records: of the networks.
    """
    rows = {}
    for view in views.values():
        for trial in trials_of(view, records):
            if trial.quantity.published is not None:
                setting = f"{trial.quantity.setting}, {trial.training}"
                rows[setting, trial.quantity.name] = replace(trial.quantity, setting=setting)
    return Table(title, list(rows.values()))
