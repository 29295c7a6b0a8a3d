"""Non-Euclidean monotone operator networks (Jafarpour, Davydov, Proskurnikov & Bullo 2021) and their robust training."""

from wellposed.reproduction.recipe import Later, Recipe

RECIPES = (
    Recipe(
        "nemon-estimation", "nemon", "function estimation", "error against the certified slope over λ", ("function-estimation",),
        0.2, False, Later("nemon.estimation", "cells"), Later("nemon.estimation", "view"),
    ),
    Recipe(
        "nemon-constants", "nemon", "MNIST, accuracy and constant", "accuracy against the ℓ∞ constant over λ, n = 100",
        ("mnist",), 1.0, False, Later("nemon.classification", "penalty_cells"), Later("nemon.classification", "constants"),
    ),
    Recipe(
        "nemon-attacks", "nemon", "MNIST, attacks", "accuracy under noise, inversion and projected gradients over the amplitude",
        ("mnist",), 0.85, False, Later("nemon.classification", "attack_cells"), Later("nemon.classification", "curves"),
    ),
    Recipe(
        "nemon-iterations", "nemon", "convergence", "iterations and time of the average iteration and others", ("mnist",), 0.15,
        False, Later("nemon.iterations", "cells"), Later("nemon.iterations", "view"),
    ),
    Recipe(
        "nemon-robust", "nemon", "robust training (Davydov et al. 2022)", "certified and attacked accuracy over ℓ∞ radii",
        ("mnist",), 0.6, False, Later("nemon.robust", "cells"), Later("nemon.robust", "view"),
    ),
    Recipe(
        "nemon-training", "nemon", "beside the paper", "plain and robust networks under other trainings", ("mnist",), 1.4, False,
        Later("nemon.retrained", "cells"), Later("nemon.retrained", "view"), explains=Later("nemon.retrained", "figures"),
    ),
    Recipe(
        "nemon-mnist-conv", "nemon", "MNIST, convolutional", "accuracy, certified and attacked", ("mnist",), 90.0, True,
        Later("nemon.convolutional", "mnist_cells"), Later("nemon.convolutional", "mnist_view"),
    ),
    Recipe(
        "nemon-mnist-conv-small", "nemon", "MNIST, convolutional, small", "the same after few epochs, with a stride", ("mnist",),
        0.7, False, Later("nemon.convolutional", "small_cells"), Later("nemon.convolutional", "small_view"),
    ),
    Recipe(
        "nemon-cifar-conv", "nemon", "CIFAR-10, convolutional", "accuracy, certified and attacked", ("cifar10-jpeg",), 150.0,
        True, Later("nemon.convolutional", "cifar_cells"), Later("nemon.convolutional", "cifar_view"),
    ),
)  # fmt: skip
