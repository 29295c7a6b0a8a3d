"""Whole models: an equilibrium layer between normalised pixels and a linear head."""

from wellposed.models.classifier import classifier as classifier
from wellposed.models.families import FAMILIES as FAMILIES
from wellposed.models.families import Family as Family
from wellposed.models.graph_classifier import GraphClassifier as GraphClassifier
