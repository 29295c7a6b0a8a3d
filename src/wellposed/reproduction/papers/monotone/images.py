"""Figures 1c and 1d: Lipschitz bounds of explicit and of monotone convolutional networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from wellposed.certificates import certify
from wellposed.comparison.image_seqlip import image_seqlip
from wellposed.models.families import ConvolutionalFamily
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.networks import facts, preset_with, settings_of, trained
from wellposed.reproduction.papers.monotone.dense import RADII, per_normalised
from wellposed.reproduction.papers.monotone.showing import SEEDS, curve, family_of, grouped, quantity
from wellposed.reproduction.robustness import robustness
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View, published_points
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

DEPTHS = (2, 4, 6, 8)
MONOTONICITIES = (0.5, 2.0, 10.0, 20.0)
_QUICK_IMAGES = 100
_WITNESS_INPUTS = 32
_CHANNELS = {"mondeq-conv": (128,), "mondeq-multi": (32, 64, 128)}  # of the published networks
PUBLISHED = {
    "mondeq-conv": Published(48.55, "notebook of the paper", 0.005),
    "mondeq-multi": Published(198.22, "notebook of the paper", 0.005),
}  # of m = 20
KINDS = {"mondeq-conv": "single convolution", "mondeq-multi": "two tiers"}
EPOCHS = {"mondeq-conv": 2, "mondeq-multi": 1}
FAMILIES: dict[str, dict[str, Any]] = {"mondeq-conv": {}, "mondeq-multi": {"width": 12, "further": (16,)}}
BOUNDS = (
    ("as published, without the pool's norm", "without_pool"), ("‖U‖‖W_o‖/m", "product"), ("best bound", "lipschitz"),
    ("proved lower bound", "lower_bound"),
)  # fmt: skip
EXPLICIT_BOUNDS = (
    ("product of norms (AutoLip)", "product"), ("greedy SeqLip, an estimate", "seqlip"),
    ("proved lower bound", "lower_bound"),
)  # fmt: skip


def convolutional_network(
    workspace: Workspace, *, config: dict[str, Any], limit: int | None, rank: int
) -> dict[str, Any]:
    """Train an explicit convolutional network and bound its constant by published methods, per normalised pixel.

    Returns:
        What `facts` says, ``product``, ``seqlip`` and ``lower_bound``.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    _, data, model = load_image_run(run, workspace.data_root)
    parts = list(model.children())
    inputs = torch.nn.Sequential(*parts[:2])(data.test_x[:_WITNESS_INPUTS]).detach()
    body = torch.nn.Sequential(*parts[2:])  # behind normalisation and flattening
    found = certify(body, method="product", inputs=inputs)
    estimate = image_seqlip(body, tuple(inputs.shape[1:]), rank=rank).value
    return {
        **facts(workspace, run, limit), "product": found.lipschitz, "seqlip": estimate, "lower_bound": found.lower_bound,
    }  # fmt: skip


def image_network(workspace: Workspace, *, config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Train and certify a monotone convolutional network.

    Returns:
        What `facts` and `robustness` say, and ``without_pool``, the product that the paper's figures show, which leaves out that
        averages over p × p pixels have the norm 1/p.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    found = robustness(workspace, run, radii=RADII, limit=limit, attack=None)
    return {**facts(workspace, run, limit), **found, "without_pool": found["product"] * config["family"]["pool"]}


def explicit_cells(quick: bool) -> list[Cell]:
    """Networks of every depth and seed."""
    depths, seeds, width = ((2, 4), (0,), 4) if quick else (DEPTHS, SEEDS, 8)
    cells = []
    for depth in depths:
        for seed in seeds:
            family = ConvolutionalFamily(width=width, depth=depth, hidden=50)
            config = TrainConfig(family, "mnist", epochs=1 if quick else 3, validation=0.0, seed=seed)
            extent = {"limit": _QUICK_IMAGES, "rank": 10} if quick else {"limit": None, "rank": 40}
            cells.append(Cell(convolutional_network, {"config": settings_of(config), **extent}))
    return cells


def monotone_cells(quick: bool) -> list[Cell]:
    """Both kinds for every m, with one seed: a training takes minutes."""
    if quick:
        family = {"width": 4, "m": 20.0, "stride": 4, "pool": 2}
        config = preset_with("mondeq-conv", family=family, epochs=1, batch_size=256)
        return [Cell(image_network, {"config": settings_of(config), "limit": _QUICK_IMAGES})]
    return [monotone_cell(kind, m, epochs) for kind, epochs in EPOCHS.items() for m in MONOTONICITIES]


def monotone_cell(kind: str, m: float, epochs: int) -> Cell:
    """One network.

    Args:
        kind: a key of `KINDS`.
        m: the strong monotonicity.
        epochs: of the training.
    """
    config = preset_with(kind, family={"m": m, **FAMILIES[kind]}, epochs=epochs)
    return Cell(image_network, {"config": settings_of(config), "limit": None})


def published_cell(m: float, epochs: int) -> Cell:
    """The single convolution with the published channels, pixels, border and average, of one m, trained for so many epochs."""
    family = {"m": m, "width": _CHANNELS["mondeq-conv"][0], "stride": 1, "border": 1, "pool": 4}
    return Cell(
        image_network, {"config": settings_of(preset_with("mondeq-conv", family=family, epochs=epochs)), "limit": None}
    )


def _channels(family: dict[str, Any]) -> tuple[int, ...]:
    return family["width"], *family.get("further", ())


def of_published_size(record: Record) -> bool:
    """Whether a network has the published channels, pixels and border."""
    family = family_of(record)
    return _channels(family) == _CHANNELS[family["name"]] and (family["stride"], family["border"]) == (1, 1)


def differing(published: Published, group: Sequence[Record]) -> Published:
    """A published number, with how our network differs from the one that it is of."""
    family, epochs = family_of(group[0]), group[0].settings["config"]["epochs"]
    trained_for = f"trained for {epochs} {'epoch' if epochs == 1 else 'epochs'}"
    theirs, ours = _CHANNELS[family["name"]], _channels(family)
    if of_published_size(group[0]):
        return replace(published, incomparable=f"the published training is unknown, ours {trained_for}")
    why = (
        f"the published network has {', '.join(map(str, theirs))} channels on 30 × 30 pixels, ours {', '.join(map(str, ours))} "
        f"behind a stride of {family['stride']}, {trained_for}"
    )
    return replace(published, incomparable=why)


def _measured(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda measured: float(measured[key])


def explicit_constants(records: Sequence[Record]) -> View:
    """Bounds of explicit networks over the number of convolutions."""
    groups = grouped(records, lambda record: float(family_of(record)["depth"]))
    rows = [
        quantity(
            group, f"{depth:g} convolutions", f"constant per normalised pixel, {name}", _measured(key),
            remark="A greedy search by the largest singular values: this certifies nothing." if key == "seqlip" else "",
        )
        for depth, group in groups.items() for name, key in EXPLICIT_BOUNDS
    ]  # fmt: skip
    lines = [curve(name, groups, _measured(key)) for name, key in EXPLICIT_BOUNDS]
    sentence = (
        "Lipschitz bounds of explicit convolutional networks over their depth: the product of norms, the greedy estimate of "
        "SeqLip, which is no certificate, and the proved lower bound."
    )
    picture = Figure("monotone-fig1c", sentence, "convolutions", "Lipschitz constant per normalised pixel", lines, True)
    return [Table("Lipschitz constants", rows), picture]


def monotone_constants(records: Sequence[Record]) -> View:
    """Bounds of monotone convolutional networks over m."""
    rows: list[Quantity] = []
    lines: list[Series] = []
    for kind, members in grouped(of_task(records, image_network), lambda record: family_of(record)["name"]).items():
        groups = grouped(members, lambda record: float(family_of(record)["m"]))
        for name, key in BOUNDS:
            for m, group in groups.items():
                published = differing(PUBLISHED[kind], group) if m == 20.0 and key == "without_pool" else None
                words = f"constant per normalised pixel, {name}"
                setting = f"{KINDS[kind]}, m = {m:g}"
                rows.append(quantity(group, setting, words, per_normalised(key), published=published))
            lines.append(curve(f"{KINDS[kind]}, {name}", groups, per_normalised(key)))
            if key == "without_pool":
                known = {m: PUBLISHED[kind] if m == 20.0 else None for m in groups}
                lines += published_points(lines[-1].label, known)
    sentence = (
        "Lipschitz constants of monotone convolutional networks over m: the published bound, which leaves out that averages over "
        "p × p pixels have the norm 1/p (1/4 in the published networks of a single convolution), the product with that norm, the "
        "best bound, which is that product where no metric is known, as of two tiers, and the proved lower bound."
    )
    picture = Figure("monotone-fig1d", sentence, "m", "Lipschitz constant per normalised pixel", lines, True, True)
    return [Table("Lipschitz constants", rows), picture]
