"""The functions of the domain ``wellposed`` by name; their texts, beside this file, are the definition of the format."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from onnx import FunctionProto, NodeProto, parser

DOMAIN, OPSET, IR_VERSION, VERSION = "wellposed", 20, 10, 1
STRUCTURE = ("edge_index", "batch")  # inputs of networks on graphs beside the features of nodes
_HEADER = f'<opset_import: ["" : {OPSET}, "{DOMAIN}" : {VERSION}], domain: "{DOMAIN}">\n'


@cache
def _texts() -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """The texts of all functions, and of activations what is assumed of them: how inexact they are, and their largest slope."""
    lines = Path(__file__).with_name("functions.txt").read_text(encoding="utf-8").splitlines()
    known = {line.split()[0][1:]: (line.split()[1], line.split()[2]) for line in lines if line.startswith("@")}
    text = "\n".join(line for line in lines if not line.startswith(("#", "@")))
    found = {part.split(" ", 1)[0]: part for part in re.split(r"\n\n+", text.strip())}
    for name in [name for name in found if "{sigma}" in name]:
        body = found.pop(name)
        for sigma, (inexact, slope) in known.items():
            own = body.replace("{sigma}", sigma).replace("{inexact}", inexact).replace("{slope}", slope)
            found[name.replace("{sigma}", sigma)] = own
    return found, known


def activation(name: str) -> tuple[str, str, str] | None:
    """The kind, the activation, and the text of its largest slope, of a function that depends on an activation."""
    kind, _, sigma = name.partition("_")
    texts, known = _texts()
    return (kind, sigma, known[sigma][1]) if name in texts and sigma in known else None


def assumed(sigma: str) -> str:
    """How far off a runtime's values of an activation may be, relative to 1 + |v|, as the functions have it."""
    return _texts()[1][sigma][0]


@cache
def function(name: str) -> FunctionProto:
    """A function of the domain, and nothing that it calls.

    Args:
        name: of the function; for one that depends on an activation with the activation's name behind an underscore.

    Raises:
        KeyError: there is none of that name.
    """
    texts, _ = _texts()
    found = parser.parse_function(_HEADER + texts[name])
    for node in _nodes(found.node):
        if node.op_type in texts:
            node.domain = DOMAIN
    return found


@cache
def called(name: str) -> tuple[str, ...]:
    """Names of the functions that a function calls, directly or not, and its own last."""
    own = {node.op_type for node in _nodes(function(name).node) if node.domain == DOMAIN}
    found = {inner: None for other in sorted(own) for inner in called(other)}
    return (*found, name)


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes with those of the bodies inside of them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)
