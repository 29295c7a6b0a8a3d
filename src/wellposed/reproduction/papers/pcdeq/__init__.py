"""Positive concave equilibrium networks (Gabor, Piotrowski & Cavalcante 2024)."""

from wellposed.reproduction.papers.pcdeq.networks import RECIPES

__all__ = ["RECIPES"]
