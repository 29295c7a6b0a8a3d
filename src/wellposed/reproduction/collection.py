"""The papers, and the recipes of each."""

from __future__ import annotations

from dataclasses import dataclass

from wellposed.errors import choices
from wellposed.reproduction.papers import lben, monotone, nemon
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
    "lben": Paper(
        "Lipschitz-bounded equilibrium networks",
        "Revay, Wang & Manchester, *Lipschitz bounded equilibrium networks*, 2020, arXiv 2010.01732",
        "Published numbers are those of the authors' result files, of one seed each. γ and other constants are per normalised "
        "pixel, as published; radii are in pixels from 0 to 1. The baselines that the paper trains by Lipschitz-margin training "
        "(Tsuzuku, Sato & Sugiyama 2018) are left out, as this library has no such training.",
    ),
    "nemon": Paper(
        "Non-Euclidean monotone operator networks",
        "Jafarpour, Davydov, Proskurnikov & Bullo, *Robust implicit networks via non-Euclidean contractions*, NeurIPS 2021, and "
        "Davydov, Jafarpour, Abate, Bullo & Coogan, *Comparative analysis of interval reachability for robust implicit and "
        "feedforward neural networks*, 2022",
        "The first paper's tables and the functions that it estimates could not be read, so that only the second one's numbers, "
        "from its notebook, stand here; the function is one of our own. λ weighs the ℓ∞ constant from pixels to logits. The "
        "feed-forward networks of the second paper, trained by intervals, are left out, as this library trains only its "
        "equilibrium networks so. Inversion moves every pixel x towards 1 − x by at most the amplitude.",
    ),
}

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*monotone.RECIPES, *lben.RECIPES, *nemon.RECIPES)}


def recipes_of(paper: str) -> list[Recipe]:
    """The recipes of a paper in the order of its figures."""
    choices("paper", paper, tuple(PAPERS))
    return [recipe for recipe in RECIPES.values() if recipe.paper == paper]
