"""Algorithms for fixed points, and the loop they share: one algorithm a file."""

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

_BY_NAME: dict[str, type[Solver]] = {
    solver.algorithm: solver
    for solver in (
        Anderson, Averaged, Broyden, DouglasRachford, ForwardBackward, Newton, NewtonKrylov, PeacemanRachford, Picard,
    )
}  # fmt: skip


def solver_named(algorithm: str) -> Solver:
    """The solver of that name with its default options."""
    from wellposed.errors import choices

    choices("solver", algorithm, tuple(_BY_NAME))
    return _BY_NAME[algorithm]()
