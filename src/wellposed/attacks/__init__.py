"""Attacks by well-kept libraries, through exact implicit gradients."""

from wellposed.attacks.auto import auto_attack as auto_attack
from wellposed.attacks.minimal import adversarial_distances as adversarial_distances
from wellposed.attacks.plain import plain_distances as plain_distances
