"""Lipschitz-bounded equilibrium networks (Revay, Wang & Manchester 2020)."""

from wellposed.reproduction.papers.lben.attacks import RECIPES as _ATTACKS
from wellposed.reproduction.papers.lben.bounds import RECIPES as _BOUNDS
from wellposed.reproduction.papers.lben.cifar import RECIPES as _CIFAR
from wellposed.reproduction.papers.lben.digits import RECIPES as _DIGITS
from wellposed.reproduction.papers.lben.well_posed import RECIPES as _WELL_POSED

RECIPES = (*_BOUNDS, *_ATTACKS, *_WELL_POSED, *_DIGITS, *_CIFAR)
