"""Lipschitz-bounded equilibrium networks (Revay, Wang & Manchester 2020)."""

from wellposed.reproduction.recipe import Later, Recipe

RECIPES = (
    Recipe(
        "lben-bounds", "lben", "MNIST, error and constant", "test error against the Lipschitz constant over γ", ("mnist",),
        1.2, False, Later("lben.bounds", "bound_cells"), Later("lben.bounds", "bounds"),
    ),
    Recipe(
        "lben-widths", "lben", "MNIST, width study", "test error and constant over the width at γ = 1", ("mnist",), 0.6,
        False, Later("lben.bounds", "width_cells"), Later("lben.bounds", "widths"),
    ),
    Recipe(
        "lben-attacks", "lben", "MNIST, attacks", "error under attacks and certified error over the radius", ("mnist",), 0.85,
        False, Later("lben.attacks", "attack_cells"), Later("lben.attacks", "curves"),
    ),
    Recipe(
        "lben-well-posed", "lben", "well-posedness", "networks and matrices under each condition for one equilibrium",
        ("mnist",), 0.4, False, Later("lben.well_posed", "network_cells"), Later("lben.well_posed", "conditions"),
    ),
    Recipe(
        "lben-training", "lben", "beside the paper", "the error and width studies, trained or measured otherwise", ("mnist",),
        0.6, False, Later("lben.retrained", "cells"), Later("lben.retrained", "view"),
        explains=Later("lben.retrained", "figures"),
    ),
    Recipe(
        "lben-mnist-conv", "lben", "MNIST, convolutional", "error and constant of 54 channels in two metrics", ("mnist",), 40.0,
        True, Later("lben.digits", "cells"), Later("lben.digits", "view"),
    ),
    Recipe(
        "lben-mnist-conv-small", "lben", "MNIST, convolutional, small", "the same with fewer channels and epochs, and a stride",
        ("mnist",), 1.2, False, Later("lben.digits", "small_cells"), Later("lben.digits", "small_view"),
    ),
    Recipe(
        "lben-cifar-conv", "lben", "CIFAR-10, convolutional", "error and constant of 81 channels over γ and metric",
        ("cifar10-jpeg",), 400.0, True, Later("lben.cifar", "conv_cells"), Later("lben.cifar", "conv_view"),
    ),
    Recipe(
        "lben-cifar-dense", "lben", "CIFAR-10, dense", "error and constant of width 80 over γ", ("cifar10-jpeg",), 1.5, False,
        Later("lben.cifar", "dense_cells"), Later("lben.cifar", "dense_view"),
    ),
    Recipe(
        "lben-cifar-training", "lben", "beside the paper", "the dense networks on CIFAR-10, trained or measured otherwise",
        ("cifar10-jpeg",), 0.7, False, Later("lben.retrained_photographs", "cells"),
        Later("lben.retrained_photographs", "view"), explains=Later("lben.retrained_photographs", "figures"),
    ),
    Recipe(
        "lben-svhn", "lben", "SVHN, convolutional", "error and constant of 40 channels over γ", ("svhn",), 60.0, True,
        Later("lben.cifar", "svhn_cells"), Later("lben.cifar", "svhn_view"),
        "SVHN could not be downloaded where the records were made; `wellposed train lben-conv --data svhn` trains on it where "
        "SVHN/train_32x32.mat and SVHN/test_32x32.mat are in the data folder",
    ),
)  # fmt: skip
