"""The papers, and the recipes of each."""

from __future__ import annotations

from dataclasses import dataclass

from wellposed.errors import choices
from wellposed.reproduction.papers import monotone, orthogonal, pcdeq
from wellposed.reproduction.recipe import Recipe


@dataclass(frozen=True)
class Paper:
    """A published system whose figures and tables are reproduced.

    Attributes:
        title: of its page.
        reference: authors, year and title.
        about: what to know first, a sentence or two.
    """

    title: str
    reference: str
    about: str


PAPERS: dict[str, Paper] = {
    "monotone": Paper(
        "Lipschitz constants of monotone equilibrium networks",
        "Pabbaraju, Winston & Kolter, *Estimating Lipschitz constants of monotone deep equilibrium models*, ICLR 2021",
        "The hyper-parameters of its sweeps were not published; ours are the same for all networks of a figure.",
    ),
    "pcdeq": Paper(
        "Positive concave equilibrium networks",
        "Gabor, Piotrowski & Cavalcante, *Positive concave deep equilibrium models*, ICML 2024",
        "The numbers of its tables and figures are not at hand, so that none is compared with. Architectures and settings are "
        "those of its published program, except that offsets have a floor of 0.01, that the learning rate follows one cycle, and "
        "that a solve ends by a bound of each sample's error.",
    ),
    "orthogonal": Paper(
        "Orthogonal equilibrium networks",
        "Singh & Lou, *1-Lipschitz deep equilibrium models*",
        "The paper states neither its protocol nor what stands behind ±; its code is that of implicit graph networks (Gu et al. "
        "2020) with other weights, whose script reports the best epoch of every fold on the graphs that it tests on.",
    ),
}

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*monotone.RECIPES, *pcdeq.RECIPES, *orthogonal.RECIPES)
}


def recipes_of(paper: str) -> list[Recipe]:
    """The recipes of a paper in the order of its figures."""
    choices("paper", paper, tuple(PAPERS))
    return [recipe for recipe in RECIPES.values() if recipe.paper == paper]
