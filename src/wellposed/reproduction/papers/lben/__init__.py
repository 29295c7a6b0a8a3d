"""Lipschitz-bounded equilibrium networks (Revay, Wang & Manchester 2020)."""

from wellposed.reproduction.papers.lben.bounds import RECIPES as _BOUNDS

RECIPES = (*_BOUNDS,)
