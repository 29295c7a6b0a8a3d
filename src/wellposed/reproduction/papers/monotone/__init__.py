"""Lipschitz constants of monotone equilibrium networks (Pabbaraju, Winston & Kolter 2021)."""

from wellposed.reproduction.papers.monotone import (
    attacked,
    certified,
    deep,
    dense,
    errors,
    images,
    risk,
    unrolling,
    widths,
)

RECIPES = (
    *deep.RECIPES, *dense.RECIPES, *images.RECIPES, *risk.RECIPES, *certified.RECIPES, *attacked.RECIPES, *errors.RECIPES,
    *widths.RECIPES, *unrolling.RECIPES, risk.FIGURE_8,
)  # fmt: skip
