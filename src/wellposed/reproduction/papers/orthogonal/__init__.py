"""Orthogonal equilibrium networks (Singh & Lou, 1-Lipschitz deep equilibrium models)."""

from wellposed.reproduction.papers.orthogonal.graphs import RECIPES as _GRAPHS

RECIPES = (*_GRAPHS,)
