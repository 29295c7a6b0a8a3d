"""Whether the blocks that a certificate names are made of the weights, each of them of its own, and fit together."""

import math

from .case import KINDS, Block, Case, Shape, module_of
from .proofs import Refuted

_ROLES = {"nonexpansive": (set(), set()), "normalize": ({"mean", "std"}, set()), "linear": ({"weight"}, {"bias"})}


def check_accounting(case: Case) -> None:
    """Every tensor of the weight file belongs to a block that the certificate names."""
    names = [block["name"] for block in case.blocks]
    if len(set(names)) != len(names) or not all(type(name) is str for name in names):
        raise Refuted("accounting", "two blocks of one name")
    named = {key for block in case.blocks for key in block["tensors"].values()}
    if set(case.weights) != named:
        raise Refuted("accounting", f"tensors outside of the chain: {sorted(set(case.weights) ^ named)}")
    given: Shape = None
    for block in (block for block in case.blocks if block["kind"] != "other"):
        name, kind, has = block["name"], block["kind"], set(block["tensors"])
        if kind in KINDS and block["class"] not in KINDS[kind][1].split():
            raise Refuted("accounting", f"{name}: a {block['class']} is not of the kind {kind}")
        needed, optional = _ROLES[kind] if kind in _ROLES else module_of(block).roles(case, block)
        prefix = "" if names == ["model"] else f"{name}."
        wrong = any(key != prefix + role for role, key in block["tensors"].items())
        if not needed <= has <= needed | optional or wrong:
            raise Refuted("accounting", f"{name}: other tensors than a {block['class']} of this kind has")
        given = _shape_after(case, block, given)
    case.log.append(f"accounting: {len(case.blocks)} blocks, {len(named)} tensors")


def _shape_after(case: Case, block: Block, given: Shape) -> Shape:
    """The shape of the values of a block that is given values of a shape; None where it is not known."""
    kind, found, taken = block["kind"], given, given
    if kind == "linear":
        outputs, inputs = case.getter(block)("weight").shape
        found, taken = ((*given[:-1], outputs), (*given[:-1], inputs)) if given else ((outputs,), None)
    elif kind == "nonexpansive" and block["class"] in ("Flatten", "Unflatten"):
        found = (math.prod(given),) if given is not None and block.get("dims") == [1, -1] else None
    elif kind not in _ROLES:
        found, taken = module_of(block).ends(case, block, given)
    if None not in (given, taken) and given != taken:
        raise Refuted("accounting", f"{block['name']}: takes inputs of shape {taken}, is given {given}")
    return found
