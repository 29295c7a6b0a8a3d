"""Where code looks at the kind of an object instead of asking it: found in the syntax, so that tests can count it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

# Types of arguments, which a function has to tell apart; everything else is a kind.
ARGUMENTS = {
    "Tensor", "torch.Tensor", "Parameter", "nn.Parameter", "nn.Module", "np.ndarray", "ndarray", "int", "float", "complex",
    "bool", "str", "bytes", "tuple", "list", "dict", "set", "type", "object", "Path", "Mapping", "Sequence", "Iterable",
    "Iterator", "Callable", "Number", "Integral", "Real", "Exception", "BaseException",
}  # fmt: skip
# Functions of the gate that say which kind a module is.
OF_THE_GATE = {"is_plain", "is_nonexpansive"}
# What an object has that says its class.
NAMES_OF_CLASSES = {"__name__", "__qualname__", "__class__"}


def type_tests(module: ast.Module) -> list[tuple[int, str]]:
    """Every test of a kind in a file: line and code."""
    found = [(node.lineno, text) for node in ast.walk(module) for text in _tests_of(node)]
    return sorted(found)


def _tests_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name in ("isinstance", "issubclass") and len(node.args) == 2:
            kinds = [kind for kind in _alternatives(node.args[1]) if kind not in ARGUMENTS]
            if kinds:
                yield f"{name}({', '.join(kinds)})"
        elif name.rpartition(".")[2] in OF_THE_GATE | {"singledispatch", "singledispatchmethod"}:
            yield ast.unparse(node)
    elif isinstance(node, ast.Compare):
        if any(_says_a_class(part) for part in ast.walk(node)):
            yield ast.unparse(node)
    elif isinstance(node, ast.Match):
        yield f"match {ast.unparse(node.subject)}"
    elif isinstance(node, ast.Dict) and node.keys and all(key is not None and _is_a_class(key) for key in node.keys):
        yield f"table by {ast.unparse(node.keys[0])} …"  # type: ignore[arg-type]


def _alternatives(classes: ast.expr) -> list[str]:
    if isinstance(classes, ast.Tuple):
        return [kind for element in classes.elts for kind in _alternatives(element)]
    if isinstance(classes, ast.BinOp):
        return _alternatives(classes.left) + _alternatives(classes.right)
    return [ast.unparse(classes)]


def _says_a_class(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in NAMES_OF_CLASSES
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"


def _is_a_class(key: ast.expr) -> bool:
    """A name in CapWords, by which this code names classes."""
    if not isinstance(key, ast.Name | ast.Attribute):
        return False
    name = ast.unparse(key).rpartition(".")[2]
    return name[:1].isupper() and not name.isupper()
