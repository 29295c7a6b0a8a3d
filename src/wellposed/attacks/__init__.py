"""Attacks by well-kept libraries, through exact implicit gradients."""

from wellposed.attacks.minimal import adversarial_distances as adversarial_distances
