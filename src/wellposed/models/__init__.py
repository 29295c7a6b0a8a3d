"""Whole models: an equilibrium layer between normalised pixels and a linear head."""

from wellposed.layers.graph_classifier import GraphClassifier as GraphClassifier
from wellposed.models.classifier import classifier as classifier
from wellposed.models.families import FAMILIES as FAMILIES
from wellposed.models.families import Family as Family
