"""Free parameters to a well-posed operator and its guarantee: one file, one theorem."""

from wellposed.constraints.base import Constraint as Constraint
from wellposed.constraints.monotone import Monotone as Monotone
