"""Figure 1a: Lipschitz bounds of explicit networks over their depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wellposed.certificates import certify
from wellposed.certificates.radius import radii as certified_radii
from wellposed.comparison.baselines import lipsdp, seqlip
from wellposed.data import ImageData
from wellposed.experiments.results import Certified, check_consistency
from wellposed.models.families import FeedForwardFamily
from wellposed.network import materialise
from wellposed.numerics.outward import enlarged
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import facts, settings_of, trained
from wellposed.reproduction.papers.monotone.dense import QUICK_LIMIT, RADII, per_normalised
from wellposed.reproduction.papers.monotone.showing import (
    SEEDS,
    UNKNOWN_TRAINING,
    curve,
    family_of,
    grouped,
    quantity,
)  # fmt: skip
from wellposed.reproduction.strongest import beside, strongest
from wellposed.reproduction.view import Figure, Published, Table, View, published_points
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

DEPTHS = (3, 4, 5, 6, 7, 8, 10, 12, 14)
WIDTH = 40
_BATCH = 1000
_WITNESS_INPUTS = 64
_LEGEND = {3: 14.15, 4: 23.46, 5: 51.59, 6: 82.41, 7: 199.19, 8: 557.46}
PUBLISHED = {
    float(depth): Published(value, "legend of Fig. 4a", 0.005, UNKNOWN_TRAINING) for depth, value in _LEGEND.items()
}
BOUNDS = (
    ("product of norms (AutoLip, naive)", "product"), ("greedy SeqLip, an estimate from below", "seqlip"),
    ("LipSDP", "lipschitz"), ("proved lower bound", "lower_bound"),
)  # fmt: skip


def deep_network(workspace: Workspace, *, config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Train an explicit network, bound its constant by published methods, and certify inputs by LipSDP.

    Returns:
        What `facts` says; ``product``, ``seqlip``, ``lipschitz`` (LipSDP) and ``lower_bound``, from pixels to logits, and
        ``deviation``, times which they are per normalised input; ``certified`` accuracies in % at `RADII` by rule.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    _, data, model = load_image_run(run, workspace.data_root)
    product, certified = _by_lipsdp(model, data, limit)
    estimate = seqlip(_body(model), greedy=True).value * _per_pixel(data)
    return {
        **facts(workspace, run, limit), "lipschitz": certified.lipschitz, "product": product, "seqlip": estimate,
        "lower_bound": certified.lower_bound, "deviation": data.std[0], "radii": list(RADII),
        "certified": {rule: [100.0 * certified.accuracy(radius, rule) for radius in RADII] for rule in certified.radii},
    }  # fmt: skip


def attacked_deep_network(
    workspace: Workspace, *, config: dict[str, Any], radii: Sequence[float], images: int, effort: dict[str, int]
) -> dict[str, Any]:
    """Train an explicit network, press it by all attacks, and certify the same images by LipSDP, see `attacked_classifier`."""
    run = trained(workspace, TrainConfig.from_dict(config))
    _, data, model = load_image_run(run, workspace.data_root)
    _, certified = _by_lipsdp(model, data, images)
    attacked = strongest(model, data.test_x[:images], data.test_y[:images], radii, norm="2", effort=effort)
    check_consistency(certified, attacked)
    return beside([100.0 * certified.accuracy(radius) for radius in radii], attacked, radii)


def _by_lipsdp(model: Any, data: ImageData, limit: int | None) -> tuple[float, Certified]:
    """The product of norms, and the radii of the first test images by LipSDP, all from pixels to logits."""
    x, y = data.test_x[:limit], data.test_y[:limit]
    network = materialise(model, tuple(x.shape[1:]))
    product = certify(network, method="product", inputs=x[:_WITNESS_INPUTS])
    assert product.lower_bound is not None  # inputs were given
    constant = min(enlarged(lipsdp(_body(model)) * _per_pixel(data), 1), product.lipschitz)
    found: dict[str, list[float]] = {"paper": [], "sqrt2": []}
    for part, labels in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
        result = network.bounded(part)
        for rule, values in found.items():
            values += certified_radii(
                result.logits, labels, constant, None, rule, result.error, result.elsewhere, result.growth
            ).tolist()
    return product.lipschitz, Certified(constant, product.lower_bound, 0.0, found, "")


def _body(model: Any) -> torch.nn.Sequential:
    """The network behind normalisation and flattening."""
    return torch.nn.Sequential(*list(model.children())[2:])


def _per_pixel(data: ImageData) -> float:
    """Times which constants of the body are per pixel, rounded up."""
    return enlarged(1.0 / data.std[0], 8)


def deep_config(depth: int, seed: int, *, quick: bool, width: int = WIDTH) -> TrainConfig:
    """The training of an explicit network of so many linear maps, the same for every figure."""
    family = FeedForwardFamily(width=width, depth=depth - 1)
    return TrainConfig(family, "mnist", epochs=1 if quick else 15, learning_rate=3e-3, seed=seed, validation=0.0)


def deep_cell(depth: int, seed: int, *, quick: bool, width: int = WIDTH) -> Cell:
    """The measurement of an explicit network of so many linear maps."""
    config = settings_of(deep_config(depth, seed, quick=quick, width=width))
    return Cell(deep_network, {"config": config, "limit": QUICK_LIMIT if quick else None})


def deep_cells(quick: bool) -> list[Cell]:
    """Networks of every depth and seed."""
    depths, seeds = ((3, 6), (0,)) if quick else (DEPTHS, SEEDS)
    return [deep_cell(depth, seed, quick=quick) for depth in depths for seed in seeds]


def depth_of(record: Record) -> float:
    """Linear maps of a record's explicit network, which is what the paper calls its depth."""
    return float(family_of(record)["depth"] + 1)


def setting_of(record: Record) -> str:
    """What tables call a record's explicit network, by its depth, or its monotone one, by m."""
    family = family_of(record)
    return f"m = {family['m']:g}" if "m" in family else f"d = {depth_of(record):g}"


def constants(records: Sequence[Record]) -> View:
    """Bounds over the depth."""
    groups = grouped(records, depth_of)
    quantities = [
        quantity(
            group, f"d = {depth:g}, h = {WIDTH}", f"constant per normalised pixel, {name}", per_normalised(key),
            published=PUBLISHED.get(depth) if key == "lipschitz" else None,
            remark="A greedy search can miss the maximum: this certifies nothing." if key == "seqlip" else "",
        )
        for depth, group in groups.items() for name, key in BOUNDS
    ]  # fmt: skip
    series = [curve(name, groups, per_normalised(key)) for name, key in BOUNDS]
    series += published_points("LipSDP", {depth: PUBLISHED.get(depth) for depth in groups})
    sentence = (
        "Lipschitz bounds of explicit networks over their depth (linear maps): the product of norms, the greedy estimate of "
        "SeqLip, which is no certificate, LipSDP, and the proved lower bound."
    )
    picture = Figure("monotone-fig1a", sentence, "depth", "Lipschitz constant per normalised pixel", series, True)
    return [Table("Lipschitz constants", quantities), picture]
