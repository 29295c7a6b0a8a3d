"""Non-Euclidean monotone operator networks (Jafarpour, Davydov, Proskurnikov & Bullo 2021) and their robust training."""

from wellposed.reproduction.papers.nemon.classification import RECIPES as _CLASSIFICATION
from wellposed.reproduction.papers.nemon.convolutional import RECIPES as _CONVOLUTIONAL
from wellposed.reproduction.papers.nemon.estimation import RECIPES as _ESTIMATION
from wellposed.reproduction.papers.nemon.iterations import RECIPES as _ITERATIONS
from wellposed.reproduction.papers.nemon.robust import RECIPES as _ROBUST

RECIPES = (*_ESTIMATION, *_CLASSIFICATION, *_ITERATIONS, *_ROBUST, *_CONVOLUTIONAL)
