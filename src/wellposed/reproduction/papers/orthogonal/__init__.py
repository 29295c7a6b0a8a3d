"""Orthogonal equilibrium networks (Singh & Lou, 1-Lipschitz deep equilibrium models)."""

from functools import partial

from wellposed.reproduction.papers.orthogonal.graph_sets import SETS
from wellposed.reproduction.recipe import Later, Recipe

_GRAPHS = tuple(
    Recipe(
        graphs.name, "orthogonal", f"Table 1, {graphs.data}", f"graph classification on {graphs.data}", (graphs.data,),
        graphs.cpu_hours, False, partial(Later("orthogonal.graphs", "fold_cells"), graphs),
        partial(Later("orthogonal.graphs", "accuracies"), graphs),
    )
    for graphs in SETS
)  # fmt: skip
RECIPES = (
    *_GRAPHS,
    Recipe(
        "orthogonal-table2", "orthogonal", "Table 2", "errors on CIFAR-10 over contraction factor κ and tolerance ε",
        ("cifar10",), 1500.0, True, Later("orthogonal.images", "grid_cells"), Later("orthogonal.images", "errors"),
    ),
)  # fmt: skip
