"""Layers X = S(s·A X Qᵀ + t·A U Pᵀ + b) on the nodes of graphs, Q orthogonal and S 1-Lipschitz, and their pooling.

With ‖A‖₂ ≤ 1, which is part of the claim, t‖P‖/(1 − s‖Q‖) is a constant from U to X in the Frobenius norm.
"""

from .case import Block, Case, Shape
from .orthogonal import FREE, matrix
from .proofs import Refuted, norm_at_most, real


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    if block["class"] == "NodeSum":
        return set(), set()
    named = block["class"], block["parametrisation"]
    if named != ("ImplicitGraph", "cayley") or block["variant"] not in ("orthogonal", "lipschitz"):
        raise Refuted("accounting", f"{block['name']}: no layer on graphs of this kind is known")
    free = FREE["cayley"]
    needed = {"_extra_state", *("state_map." + name for name in free)}
    needed |= {"injection.weight"} if block["variant"] == "orthogonal" else {"injection." + name for name in free}
    return needed | {"injection.bias"}, set()


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block, for one node or one graph."""
    if block["class"] == "NodeSum":
        return given, given
    role = "weight" if block["variant"] == "orthogonal" else "free"
    outputs, inputs = case.getter(block)(f"injection.{role}").shape
    return (outputs,), (inputs,)


def prove(case: Case, place: int, value: float) -> bool:
    """Whether a block's own constant is proved."""
    block = case.blocks[place]
    if block["class"] == "NodeSum":  # over the root of the number of nodes: orthonormal rows
        return block["by_root"] is True and value >= 1.0
    kappa, omega = map(float, case.getter(block)("_extra_state"))
    state, inputs = (real(norm) for norm in block["norms"])
    if not 0.0 < kappa <= 1.0 or not 0.0 < omega <= 1.0:
        return False
    own, driven = (kappa, 1.0) if block["variant"] == "orthogonal" else (kappa * (1.0 - omega), kappa * omega)
    linear = block["variant"] == "orthogonal"
    through = case.getter(block)("injection.weight") if linear else matrix(case, block, "injection.")
    squared = matrix(case, block, "state_map.")
    if squared.shape != (len(through), len(through)) or len(case.getter(block)("injection.bias")) != len(through):
        raise Refuted("accounting", f"{block['name']}: maps of other sizes than the state")
    factor = own * state * (1.0 + 2e-12)  # the norm of a stored adjacency may round up a little
    good = norm_at_most(squared, state) and norm_at_most(through, inputs) and factor < 1.0
    return good and value >= driven * inputs / (1.0 - factor) * (1.0 + 1e-12)
