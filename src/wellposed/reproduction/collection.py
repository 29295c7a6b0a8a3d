"""The papers, and the recipes of each."""

from __future__ import annotations

from dataclasses import dataclass

from wellposed.errors import choices
from wellposed.reproduction.papers import monotone
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
}

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*monotone.RECIPES,)}


def recipes_of(paper: str) -> list[Recipe]:
    """The recipes of a paper in the order of its figures."""
    choices("paper", paper, tuple(PAPERS))
    return [recipe for recipe in RECIPES.values() if recipe.paper == paper]
