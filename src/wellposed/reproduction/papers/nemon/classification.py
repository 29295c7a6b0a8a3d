"""MNIST: accuracy against the ℓ∞ constant over λ, and accuracy under noise, inversion and projected gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import best_rule, by_seed, image_classifier, of_task
from wellposed.reproduction.networks import learned_nothing
from wellposed.reproduction.papers.nemon.networks import (
    FOLLOW_UP,
    LIMIT_QUICK,
    PENALTIES,
    SEEDS,
    label,
    label_of,
    mnist,
)
from wellposed.reproduction.strongest import attacked_classifier, check_order, pressed, same_images
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View, published_range

RADII = (0.01, 0.02, 0.05)
AMPLITUDES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # ℓ∞, pixels in [0, 1]
ATTACKS = {"noise": "uniform noise", "inversion": "inversion of the image", "gradients": "projected gradients"}
_PLAIN_ERROR = Published(2.27, FOLLOW_UP, 0.16)  # a mean over seeds with its deviation, λ = 0


def penalty_cells(quick: bool) -> list[Cell]:
    """Networks of every λ and seed."""
    penalties, seeds = (PENALTIES[::2], (0,)) if quick else (PENALTIES, SEEDS)
    limit = LIMIT_QUICK if quick else None
    cells = [
        Cell(image_classifier, {
            "config": mnist(penalty, seed=seed, quick=quick), "radii": RADII, "limit": limit, "norm": "inf",
        })
        for penalty in penalties for seed in seeds
    ]  # fmt: skip
    return [*cells, *_pressed(penalties, quick)]


def _pressed(penalties: Sequence[float], quick: bool) -> list[Cell]:
    """One network of every λ under all attacks, at the radii of both tables, which share these records."""
    configs = [mnist(penalty, seed=0, quick=quick) for penalty in penalties]
    radii = RADII[1:] if quick else (*RADII, *AMPLITUDES)
    return [pressed(attacked_classifier, config, radii, quick=quick, norm="inf") for config in configs]


def attack_cells(quick: bool) -> list[Cell]:
    """Networks of every λ, one seed each, all attacked at the same amplitudes."""
    penalties, amplitudes = (PENALTIES[2:3], AMPLITUDES[1:3]) if quick else (PENALTIES, AMPLITUDES)
    attack = {
        "images": 100 if quick else 1000, "steps": 5 if quick else 40, "radii": amplitudes, "plain": ["noise", "inversion"],
    }  # fmt: skip
    limit = LIMIT_QUICK if quick else 1000
    cells = [
        Cell(image_classifier, {
            "config": mnist(penalty, seed=0, quick=quick), "radii": RADII, "limit": limit, "attack": attack, "norm": "inf",
        })
        for penalty in penalties
    ]  # fmt: skip
    return [*cells, *_pressed(penalties, quick)]


def constants(records: Sequence[Record]) -> View:
    """Errors, constants and certified accuracies over λ."""
    table, points = [], []
    for group in by_seed(of_task(records, image_classifier)):
        config = group[0].settings["config"]
        name, measured = label(config), [record.measured for record in group]
        remark = " ".join(sorted({learned_nothing(found) for found in measured} - {""}))
        published = None if config["lipschitz_penalty"] else _PLAIN_ERROR
        table += [
            Quantity(name, "test error, %", [found["test_error"] for found in measured], "lower", published, remark),
            Quantity(name, "ℓ∞ constant per pixel, at most", [found["lipschitz"] for found in measured], "lower"),
            Quantity(name, "ℓ∞ constant per pixel, at least", [found["lower_bound"] for found in measured], "lower"),
        ]
        points.append([row.mean for row in table[-3:]])
        table += [
            Quantity(name, f"certified at {radius:g}, %", [best_rule(found)[place] for found in measured], "higher")
            for place, radius in enumerate(RADII)
        ]
    accuracies = [100.0 - point[0] for point in points]
    series = [
        Series("certified", [point[1] for point in points], accuracies),
        Series("proved lower bound", [point[2] for point in points], accuracies),
    ]
    if any(row.published is not None for row in table):
        clean = replace(_PLAIN_ERROR, value=100.0 - _PLAIN_ERROR.value)
        series.append(published_range("λ = 0, accuracy alone", [x for each in series for x in each.x], clean))
    sentence = "Accuracy on MNIST against the ℓ∞ Lipschitz constant from pixels to logits, by λ."
    return [
        Table("Error and ℓ∞ constant by λ", table),
        *same_images(of_task(records, attacked_classifier), label_of),
        Figure("nemon-constants", sentence, "ℓ∞ constant per pixel", "accuracy, %", series, logarithmic_x=True),
    ]


def curves(records: Sequence[Record]) -> View:
    """Accuracy over the amplitude of each attack, and the certified one."""
    table = []
    by_attack: dict[str, list[Series]] = {words: [] for words in (*ATTACKS.values(), "certified")}
    for record in of_task(records, image_classifier):
        name, amplitudes = label(record.settings["config"]), list(record.settings["attack"]["radii"])
        found = record.measured
        shares = {ATTACKS[key]: values for key, values in found["plainly_attacked"].items()}
        shares |= {ATTACKS["gradients"]: found["attacked"], "certified": found["certified_of_attacked"]}
        for words, values in shares.items():
            check_order(found["certified_of_attacked"], values, amplitudes, f"{name}, {words}")
            by_attack[words].append(Series(f"{name}, {words}", amplitudes, values))
            table += [
                Quantity(name, f"accuracy at {size:g}, {words}, %", [value], "higher")
                for size, value in zip(amplitudes, values, strict=True)
            ]
    axes, images = ("ℓ∞ amplitude, pixels in [0, 1]", "accuracy, %"), records[0].settings["attack"]["images"]
    return [
        Table(f"Accuracy of the first {images} test images under ℓ∞ perturbations", table),
        *same_images(of_task(records, attacked_classifier), label_of),
        Figure(
            "nemon-noise", "Accuracy under uniform noise and under inversion of the image, by λ.", *axes,
            [*by_attack[ATTACKS["noise"]], *by_attack[ATTACKS["inversion"]]],
        ),
        Figure(
            "nemon-gradients", "Accuracy under projected gradients and certified accuracy by global constants, by λ.", *axes,
            [*by_attack[ATTACKS["gradients"]], *by_attack["certified"]],
        ),
    ]  # fmt: skip
