"""Lipschitz constants of monotone equilibrium networks (Pabbaraju, Winston & Kolter 2021)."""

from wellposed.reproduction.papers.monotone import attacked, certified, deep, dense, risk, unrolling, widths

RECIPES = (
    *deep.RECIPES, *dense.RECIPES, *risk.RECIPES, *certified.RECIPES, *attacked.RECIPES, *widths.RECIPES, *unrolling.RECIPES,
    risk.FIGURE_8,
)  # fmt: skip
