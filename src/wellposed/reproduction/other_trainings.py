"""Why a number deviates from the published one: the same quantity of networks that were trained or measured otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wellposed.reproduction.cell import Record
from wellposed.reproduction.view import Quantity, Table, View
from wellposed.training.config import TrainConfig


@dataclass(frozen=True)
class Trial:
    """A quantity of a figure, of networks that were trained or measured otherwise.

    Attributes:
        otherwise: what was done, such as ``"3 epochs at 0.001"``.
        quantity: as the figure has it then.
        reached: whether training ended where it was to end, so that the quantity can be compared.
    """

    otherwise: str
    quantity: Quantity
    reached: bool = True


def training_of(record: Record) -> str:
    """What tables call the training of a record's network: its epochs, where they are set, and what else is unusual."""
    settings = record.settings
    config: dict[str, Any] | None = settings.get("config")
    if config is None:
        words = [f"a learning rate of {settings['learning_rate']:g}"]
        words += ["orthogonal weights at first"] if settings.get("orthogonal") else []
        words += [f"a weight decay of {settings['weight_decay']:g}"] if settings.get("weight_decay") else []
        words += [f"gradient descent in batches of {settings['descent_of']}"] if settings.get("descent_of") else []
        words += [f"{settings['maps']} linear maps"] if settings.get("maps") else []
        return ", ".join(words) + ("" if record.measured["reached"] else " (the margin was not reached)")
    words = [f"{config['epochs']} {'epoch' if config['epochs'] == 1 else 'epochs'} at {config['learning_rate']:g}"]
    usual = TrainConfig.batch_size
    words += [] if config.get("batch_size", usual) == usual else [f"batches of {config['batch_size']}"]
    words += [f"a weight decay of {config['weight_decay']:g}"] if config.get("weight_decay") else []
    words += ["all images"] if "samples" in settings else []
    return " with ".join(words)


@dataclass(frozen=True)
class Explained:
    """A figure whose networks are trained or measured otherwise.

    Attributes:
        view: of the figure.
        belongs: whether a record is one of those that it shows.
        otherwise: what was done for a record.
    """

    view: Callable[[Sequence[Record]], View]
    belongs: Callable[[Record], bool]
    otherwise: Callable[[Record], str] = training_of


def trials_of(figure: Explained, records: Sequence[Record]) -> list[Trial]:
    """The quantities of a figure for everything that was done otherwise among some records.

    Args:
        figure: which is shown the records of one such thing at a time.
        records: of networks that were trained or measured otherwise than the figure's.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if figure.belongs(record):
            groups.setdefault(figure.otherwise(record), []).append(record)
    return [
        _trial(otherwise, quantity, reached=all(record.measured.get("reached", True) for record in group))
        for otherwise, group in groups.items()
        for part in figure.view(group)
        for quantity in part.quantities
        if quantity.values
    ]


def _trial(otherwise: str, quantity: Quantity, *, reached: bool) -> Trial:
    if not reached and quantity.published is not None:
        published = replace(quantity.published, incomparable="the margin was not reached")
        quantity = replace(quantity, published=published)
    return Trial(otherwise, quantity, reached)


def explanation(quantity: Quantity, trials: Sequence[Trial], command: str) -> str:
    """A sentence on what was done otherwise to learn why a quantity deviates: what came nearest to the published value.

    Args:
        quantity: measured and published.
        trials: of the same figure.
        command: that ran the trials.

    Returns:
        Nothing where the quantity does not deviate, or where nothing was tried.
    """
    published = quantity.published
    found = [
        (trial.quantity.mean, f"with {trial.otherwise}")
        for trial in trials
        if trial.reached and (trial.quantity.setting, trial.quantity.name) == (quantity.setting, quantity.name)
    ]
    if published is None or not found or not quantity.deviates:
        return ""
    every = [(quantity.mean, "here"), *found]
    below = [(value, words) for value, words in every if value <= published.greatest + published.tolerance]
    above = [(value, words) for value, words in every if value >= published.value - published.tolerance]
    if below and above:
        nearest = dict.fromkeys((max(below), min(above)))  # one, where it is as published
        return f"Tested: {_listed(nearest)} (`{command}`): {'as published' if len(nearest) == 1 else 'on either side'}."
    extremes = min(every), max(every)
    return f"Tested, not explained: {_listed(extremes)} (`{command}`); the published value is outside."


def _listed(found: Iterable[tuple[float, str]]) -> str:
    return ", ".join(f"{value:.4g} {words}" for value, words in found)


def table_of(title: str, figures: Mapping[str, Explained], records: Sequence[Record]) -> Table:
    """All published quantities of some figures, of networks that were trained or measured otherwise.

    Args:
        title: of the table.
        figures: by the names of their recipes.
        records: of the networks.
    """
    rows = {}
    for figure in figures.values():
        for trial in trials_of(figure, records):
            if trial.quantity.published is not None:
                setting = f"{trial.quantity.setting}, {trial.otherwise}"
                rows[setting, trial.quantity.name] = replace(trial.quantity, setting=setting)
    return Table(title, list(rows.values()))
