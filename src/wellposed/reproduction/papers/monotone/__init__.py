"""Lipschitz constants of monotone equilibrium networks (Pabbaraju, Winston & Kolter 2021)."""

from wellposed.reproduction.papers.monotone import (
    accuracy,
    attacked,
    certified,
    deep,
    dense,
    errors,
    images,
    photographs,
    retrained,
    risk,
    unrolling,
    widths,
)

RECIPES = (
    *deep.RECIPES, *dense.RECIPES, *images.RECIPES, photographs.FIGURE_2, *risk.RECIPES, *certified.RECIPES, *attacked.RECIPES,
    *errors.RECIPES, *widths.RECIPES, *unrolling.RECIPES, risk.FIGURE_8, photographs.FIGURE_9, *accuracy.RECIPES,
    *retrained.RECIPES,
)  # fmt: skip
