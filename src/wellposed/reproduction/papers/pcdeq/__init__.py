"""Positive concave equilibrium networks (Gabor, Piotrowski & Cavalcante 2024)."""

from functools import partial

from wellposed.reproduction.papers.pcdeq.architectures import ARCHITECTURES
from wellposed.reproduction.recipe import Later, Recipe

RECIPES = tuple(
    Recipe(
        each.name, "pcdeq", each.shows, each.title, (each.data,), each.cpu_hours, each.gpu,
        partial(Later("pcdeq.networks", "network_cells"), each), partial(Later("pcdeq.networks", "over_training"), each),
        each.missing,
    )
    for each in ARCHITECTURES
)  # fmt: skip
