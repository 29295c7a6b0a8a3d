"""Lipschitz constants of monotone equilibrium networks (Pabbaraju, Winston & Kolter 2021)."""

from wellposed.reproduction.recipe import Later, Recipe

_PHOTOGRAPHS = ("cifar10-jpeg", "cifar10-lossless")
_HOURS = 400.0  # of one core; estimated from single steps
_SHOWS = "Winston & Kolter, Table 1"
RECIPES = (
    Recipe(
        "monotone-fig1a", "monotone", "Figure 1a", "Lipschitz bounds of explicit networks over depth", ("mnist",), 0.3, False,
        Later("monotone.deep", "deep_cells"), Later("monotone.deep", "constants"),
    ),
    Recipe(
        "monotone-fig1b", "monotone", "Figure 1b", "Lipschitz constants of dense networks over m", ("mnist",), 0.5, False,
        Later("monotone.dense", "sweep_cells"), Later("monotone.dense", "constants"),
    ),
    Recipe(
        "monotone-fig1c", "monotone", "Figure 1c", "Lipschitz bounds of explicit convolutional networks over depth", ("mnist",),
        0.2, False, Later("monotone.images", "explicit_cells"), Later("monotone.images", "explicit_constants"),
    ),
    Recipe(
        "monotone-fig1d", "monotone", "Figure 1d", "Lipschitz constants of convolutional monotone networks over m", ("mnist",),
        0.6, False, Later("monotone.images", "monotone_cells"), Later("monotone.images", "monotone_constants"),
    ),
    Recipe(
        "monotone-fig2", "monotone", "Figure 2", "Lipschitz constants and test errors on CIFAR-10", _PHOTOGRAPHS, _HOURS, True,
        Later("monotone.photographs", "cells"), Later("monotone.photographs", "figure_2"),
    ),
    Recipe(
        "monotone-fig3a", "monotone", "Figure 3a", "PAC-Bayes bounds of explicit networks over depth", ("mnist",), 0.15, False,
        Later("monotone.risk", "explicit_cells"), Later("monotone.risk", "explicit_bounds"),
    ),
    Recipe(
        "monotone-fig3b", "monotone", "Figure 3b", "PAC-Bayes bounds of monotone networks over m", ("mnist",), 0.3, False,
        Later("monotone.risk", "monotone_cells"), Later("monotone.risk", "monotone_bounds"),
    ),
    Recipe(
        "monotone-fig4a", "monotone", "Figure 4a", "Certified accuracy of explicit and monotone networks", ("mnist",), 0.7,
        False, Later("monotone.certified", "cells"), Later("monotone.certified", "view"),
    ),
    Recipe(
        "monotone-fig4b", "monotone", "Figure 4b", "Accuracy under projected gradients", ("mnist",), 1.4, False,
        Later("monotone.attacked", "cells"), Later("monotone.attacked", "view"),
    ),
    Recipe(
        "monotone-fig5", "monotone", "Figure 5", "Test errors over m", ("mnist",), 1.1, False, Later("monotone.errors", "cells"),
        Later("monotone.errors", "view"),
    ),
    Recipe(
        "monotone-fig6", "monotone", "Figure 6", "Lipschitz bounds over the width", ("mnist",), 0.4, False,
        Later("monotone.widths", "cells"), Later("monotone.widths", "view"),
    ),
    Recipe(
        "monotone-fig7", "monotone", "Figure 7", "Product bounds of unrolled iterations", ("mnist",), 0.1, False,
        Later("monotone.unrolling", "cells"), Later("monotone.unrolling", "view"),
    ),
    Recipe(
        "monotone-fig8", "monotone", "Figure 8", "Test errors at the same margin, and bounds of unrolled networks", ("mnist",),
        0.45, False, Later("monotone.risk", "figure_8_cells"), Later("monotone.risk", "figure_8"),
    ),
    Recipe(
        "monotone-fig9", "monotone", "Figure 9", "Robustness on CIFAR-10, from the runs of Figure 2", _PHOTOGRAPHS, _HOURS, True,
        Later("monotone.photographs", "figure_9_cells"), Later("monotone.photographs", "figure_9"),
    ),
    Recipe(
        "monotone-accuracy", "monotone", _SHOWS, "Accuracies on MNIST", ("mnist",), 0.8, False,
        Later("monotone.accuracy", "mnist_cells"), Later("monotone.accuracy", "mnist_view"),
    ),
    Recipe(
        "monotone-accuracy-cifar10", "monotone", _SHOWS, "Accuracies on CIFAR-10", _PHOTOGRAPHS, 600.0,
        True, Later("monotone.accuracy", "cifar_cells"), Later("monotone.accuracy", "cifar_view"),
    ),
    Recipe(
        "monotone-accuracy-svhn", "monotone", _SHOWS, "Accuracies on SVHN", ("svhn",), 200.0, True, lambda quick: [],
        lambda records: [], missing="SVHN could not be obtained where these recipes were written, so no run could be tried",
    ),
    Recipe(
        "monotone-training", "monotone", "beside the paper", "Figures 1, 3 to 6 and 8, and accuracies, under other trainings",
        ("mnist",), 3.0, False, Later("monotone.retrained", "cells"), Later("monotone.retrained", "view"),
        explains=Later("monotone.retrained", "figures"),
    ),
)  # fmt: skip
