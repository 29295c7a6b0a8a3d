"""What a constraint promises, in the form that solvers and certificates read.

A guarantee states, for one operator, that the equilibrium exists and is unique; which step each admissible solver
should take and how fast it then contracts; and how far an approximate equilibrium can be from the true one.
"""

from wellposed.guarantee.base import Guarantee as Guarantee
from wellposed.guarantee.componentwise import Componentwise as Componentwise
from wellposed.guarantee.contraction import Contraction as Contraction
from wellposed.guarantee.graph import GraphContraction as GraphContraction
from wellposed.guarantee.monotone import StronglyMonotone as StronglyMonotone
from wellposed.guarantee.monotone import proved_monotonicity as proved_monotonicity
from wellposed.guarantee.plan import Plan as Plan
from wellposed.guarantee.positive import PositiveConcave as PositiveConcave
