"""Lipschitz constants of monotone equilibrium networks (Pabbaraju, Winston & Kolter 2021)."""

from wellposed.reproduction.papers.monotone.dense import RECIPES as _DENSE

RECIPES = (*_DENSE,)
