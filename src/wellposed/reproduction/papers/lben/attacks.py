"""MNIST: error under attack, by one gradient step as published and by projected gradients, beside the certified error."""

from __future__ import annotations

from collections.abc import Sequence

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import by_seed, image_classifier, of_task
from wellposed.reproduction.papers.lben.bounds import SOURCE
from wellposed.reproduction.papers.lben.networks import (
    EPOCHS,
    LIMIT_QUICK,
    MONDEQ,
    RADII,
    SEEDS,
    label,
    label_of,
    settings,
)  # fmt: skip
from wellposed.reproduction.strongest import attacked_classifier, check_order, pressed, same_images
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View

DEVIATION = 0.3081  # that pixels of MNIST are divided by
NORMALISED = (1.0, 2.0, 3.08, 5.01, 7.31, 10.0)  # radii per normalised pixel; the last four are the published ones
KINDS = (0.2, 0.5, 1.0, 5.0, 0.0, MONDEQ)
ONE_STEP = "one gradient step"
_OTHER_IMAGES = "the published attack was on the last batch of test images alone, ours is on the {}"

# Error in % under one gradient step at the last four radii.
PUBLISHED: dict[str, tuple[float, float, float, float]] = {
    "γ = 0.1": (12.8, 19.8, 32.0, 51.2), "γ = 0.2": (9.2, 14.4, 24.8, 42.6), "γ = 0.3": (8.0, 15.3, 31.4, 58.8),
    "γ = 0.4": (7.5, 16.2, 35.2, 65.0), "γ = 0.5": (6.9, 15.8, 38.2, 70.8), "γ = 0.8": (6.5, 17.4, 44.5, 80.1),
    "γ = 1": (7.4, 19.5, 51.3, 85.5), "γ = 5": (12.6, 46.6, 80.0, 95.4), "γ = ∞": (23.4, 56.1, 72.3, 82.7),
    "monDEQ": (19.7, 55.8, 80.0, 88.6),
}  # fmt: skip


def attack_cells(quick: bool) -> list[Cell]:
    """Networks of some γ, without a bound, and monotone ones, all attacked at the same radii."""
    kinds, radii = ((1.0,), NORMALISED[1:3]) if quick else (KINDS, NORMALISED)
    sizes = [DEVIATION * radius for radius in radii]
    attack = {
        "images": 100 if quick else 1000, "steps": 5 if quick else 40, "radii": sizes,
        "plain": ["gradient-step"],
    }  # fmt: skip
    configs = [settings(kind, seed=SEEDS[0], quick=quick) for kind in kinds]
    limit = LIMIT_QUICK if quick else 1000
    return [
        *(
            Cell(image_classifier, {"config": config, "radii": RADII, "limit": limit, "attack": attack})
            for config in configs
        ),
        *(pressed(attacked_classifier, config, sizes, quick=quick) for config in configs),
    ]


def curves(records: Sequence[Record]) -> View:
    """Errors under attack over the radius."""
    table, searched, stepped = [], [], []
    for group in by_seed(of_task(records, image_classifier)):
        name = label(group[0].settings["config"])
        x = [radius / DEVIATION for radius in group[0].settings["attack"]["radii"]]
        for record in group:
            measured = record.measured
            for values in (measured["attacked"], *measured["plainly_attacked"].values()):
                check_order(measured["certified_of_attacked"], values, x, name)
        by_kind = {
            ONE_STEP: [100.0 - value for value in _mean(group, "plainly_attacked")],
            "projected gradients": [100.0 - value for value in _mean(group, "attacked")],
            "not certified": [100.0 - value for value in _mean(group, "certified_of_attacked")],
        }
        for place, radius in enumerate(x):
            table += [
                error_row(
                    name, radius, kind, values[place], _published(name, radius, group[0]) if kind == ONE_STEP else None
                )
                for kind, values in by_kind.items()
            ]
        searched += [Series(f"{name}, {kind}", x, by_kind[kind]) for kind in ("not certified", "projected gradients")]
        stepped.append(Series(name, x, by_kind[ONE_STEP]))
        shown = [(radius, found) for radius in x if (found := _published(name, radius, group[0])) is not None]
        stepped.append(Series(name, [r for r, _ in shown], [p.value for _, p in shown], published=True))
    axes, images = "Euclidean radius, normalised pixels", records[0].settings["attack"]["images"]
    return [
        Table(f"Error under Euclidean attacks of the first {images} test images, radii in normalised pixels", table),
        *same_images(of_task(records, attacked_classifier), label_of),
        Figure(
            "lben-attacks-step",
            "Error under one gradient step of growing size, one seed; what is published is of other images, after more epochs.",
            axes,
            "error, %", stepped,
        ),
        Figure(
            "lben-attacks",
            "Error under projected gradients, and the error that the certificate cannot exclude, which is never below it.",
            axes, "error, %", searched,
        ),
    ]  # fmt: skip


def _mean(group: Sequence[Record], key: str) -> list[float]:
    """Accuracies in % by radius, a mean over records."""
    rows = [record.measured[key] for record in group]
    rows = [row["gradient-step"] if key == "plainly_attacked" else row for row in rows]
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def error_row(name: str, radius: float, kind: str, error: float, published: Published | None) -> Quantity:
    """The error of a network under an attack, in %.

    Args:
        name: what tables call the network.
        radius: of the attack, per normalised pixel.
        kind: of attack.
        error: measured.
        published: the paper's.
    """
    return Quantity(name, f"error at {radius:.3g}, {kind}, %", [error], "lower", published)


def _published(name: str, radius: float, record: Record) -> Published | None:
    """The published error of a network, one of whose records is given, under one step of a size."""
    settings = record.settings
    return published_step(name, radius, f"first {settings['attack']['images']}", settings["config"]["epochs"])


def published_step(name: str, radius: float, images: str, epochs: int) -> Published | None:
    """The published error of a network under one gradient step of a size, if there is one.

    Args:
        name: what tables call the network.
        radius: size of the step, per normalised pixel.
        images: which test images it is compared with, such as ``"first 1000"``.
        epochs: of our training.
    """
    errors = dict(zip(NORMALISED[-4:], PUBLISHED.get(name, ()), strict=False))
    found = next((error for size, error in errors.items() if abs(size - radius) < 1e-9), None)
    why = _OTHER_IMAGES.format(images) + (
        "" if epochs == EPOCHS else f", after {epochs} of the published {EPOCHS} epochs"
    )
    return None if found is None else Published(found, SOURCE, 0.05, why)
