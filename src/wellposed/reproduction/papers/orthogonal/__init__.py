"""Orthogonal equilibrium networks (Singh & Lou, 1-Lipschitz deep equilibrium models)."""

from wellposed.reproduction.papers.orthogonal.graphs import RECIPES as _GRAPHS
from wellposed.reproduction.papers.orthogonal.images import RECIPES as _IMAGES

RECIPES = (*_GRAPHS, *_IMAGES)
