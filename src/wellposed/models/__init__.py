"""Whole models: an equilibrium layer between normalised pixels and a linear head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wellposed.models.families import FAMILIES as FAMILIES
from wellposed.models.families import Family as Family

if TYPE_CHECKING:
    from wellposed.layers.graph_classifier import GraphClassifier as GraphClassifier


def __getattr__(name: str) -> Any:
    """`GraphClassifier`, imported on first use: families are named and described without torch."""
    if name == "GraphClassifier":
        from wellposed.layers.graph_classifier import GraphClassifier

        return GraphClassifier
    raise AttributeError(f"module 'wellposed.models' has no attribute {name!r}")
