"""Algorithms for fixed points, and the loop they share: one algorithm a file."""

from wellposed.guarantee import Guarantee
from wellposed.guarantee.plan import Algorithms
from wellposed.solvers.adaptive import Adaptive as Adaptive
from wellposed.solvers.anderson import Anderson as Anderson
from wellposed.solvers.averaged import Averaged as Averaged
from wellposed.solvers.base import Solver as Solver
from wellposed.solvers.broyden import Broyden as Broyden
from wellposed.solvers.forward_backward import ForwardBackward as ForwardBackward
from wellposed.solvers.newton import Newton as Newton
from wellposed.solvers.newton_krylov import NewtonKrylov as NewtonKrylov
from wellposed.solvers.picard import Picard as Picard
from wellposed.solvers.reflected import DouglasRachford as DouglasRachford
from wellposed.solvers.reflected import PeacemanRachford as PeacemanRachford

_ALGORITHMS = Algorithms[Solver](Picard(), Averaged(), ForwardBackward(), PeacemanRachford())


def solver_for(guarantee: Guarantee | None) -> Solver:
    """The solver that a guarantee prefers, with its default options; `Anderson` where nothing is promised."""
    return Anderson() if guarantee is None else guarantee.preferred(_ALGORITHMS)
