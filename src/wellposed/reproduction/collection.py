"""The papers, and the recipes of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from wellposed.errors import choices
from wellposed.reproduction.papers import lben, monotone, nemon, orthogonal, pcdeq
from wellposed.reproduction.published_settings import Settings
from wellposed.reproduction.recipe import Recipe


@dataclass(frozen=True)
class Paper:
    """A published system whose figures and tables are reproduced.

    Attributes:
        title: of its page.
        reference: authors, year and title.
        about: what to know first, a sentence or two.
        settings: of training that it states, see `settings_beside`.
    """

    title: str
    reference: str
    about: str
    settings: Settings = field(default_factory=dict)


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
        "pixel, as published; radii are in pixels from 0 to 1 where no table says otherwise. The baselines that the paper trains "
        "by Lipschitz-margin training (Tsuzuku, Sato & Sugiyama 2018) are left out, as this library has no such training. The "
        "margin ε of W = I − Ψ(… + VᵀV + εI + Sᵀ − S), which the paper's program calls m, is here a fraction of 1 + tr VᵀV/n.",
        {
            "lben": {
                "epochs": "40; in the width study 30",
                "learning_rate": "0.001, a tenth every ten epochs",
                "batch_size": 128,
                "family.epsilon": "m = 1",
            },
            "lben-conv": {
                "epochs": 25,
                "learning_rate": "0.001, a tenth from epoch 15",
                "batch_size": 128,
                "family.epsilon": "m = 0.1",
            },
        },
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
    recipe.name: recipe for paper in (monotone, lben, nemon, orthogonal, pcdeq) for recipe in paper.RECIPES
}


def recipes_of(paper: str) -> list[Recipe]:
    """The recipes of a paper in the order of its figures."""
    choices("paper", paper, tuple(PAPERS))
    return [recipe for recipe in RECIPES.values() if recipe.paper == paper]
