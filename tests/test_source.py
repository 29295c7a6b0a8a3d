"""The source keeps its shape: algorithms ask objects, imports go downwards, files and functions are short."""

from __future__ import annotations

import ast
import functools
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import wellposed as wp
from harness.touched import computes
from harness.type_tests import type_tests

SOURCE = Path(wp.__file__).parent
PATHS = sorted(SOURCE.rglob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# Rooms from the bottom upwards, see docs/architecture.md; a room imports from those before it only.
ROOMS = (
    "errors", "names", "writing", "numerics", "activations", "operators", "guarantee", "constraints", "solvers", "implicit",
    "any_map", "maps", "layers", "network", "bounds", "lower_bounds", "generalisation", "certificates", "checker",
    "deployment", "verification",
    "wellposed", "comparison", "attacks", "data", "models", "interop", "training", "experiments",
    "falsification", "benchmarking", "reproduction", "cli", "testing", "__main__",
)  # fmt: skip

# Where the kinds are, and where they are told apart at the border: they may look at classes.
OF_KINDS = {"layers", "network", "interop", "checker"}
MOST_TYPE_TESTS = 40

LONGEST_FILE, MEDIAN_FILE, LONGEST_FUNCTION = 400, 120, 60


def room_of(path: Path) -> str:
    """The folder of a file, or its name if it is in none; the package itself is the room of what it shows to its users."""
    first = path.relative_to(SOURCE).parts[0]
    return "wellposed" if first == "__init__.py" else first.removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import from this library, wherever in the file it is."""
    for node in ast.walk(tree_of(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "wellposed" else [node.module]
            )
        for name in names:
            package, _, rest = name.partition(".")
            if package == "wellposed":
                first = rest.partition(".")[0]
                yield node.lineno, first if first in ROOMS or ((SOURCE / first).is_dir() and first) else "wellposed"


def test_algorithms_do_not_look_at_classes():
    found = [
        f"{path.relative_to(SOURCE)}:{line}: {text}"
        for path in PATHS if room_of(path) not in OF_KINDS
        for line, text in type_tests(tree_of(path))
    ]  # fmt: skip
    assert len(found) <= MOST_TYPE_TESTS, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("isinstance(x, MonDEQ | Dense)", 1), ("issubclass(kind, (int, layers.LBEN))", 1), ("type(x) is MonDEQ", 1),
        ("x.__class__.__name__ == 'Dense'", 1), ("match x:\n    case Dense():\n        pass", 1), ("{Dense: 1, nn.Linear: 2}", 1),
        ("is_plain(x, kind)", 1), ("functools.singledispatch(f)", 1), ("isinstance(x, Tensor | int)", 0), ("{'a': 1, Z: 2}", 0),
        ("x.kind == y", 0), ("{NAME: 1}", 0), ("isinstance(x, torch.Tensor)", 0),
    ],
)  # fmt: skip
def test_type_tests_are_seen(code, count):
    assert len(type_tests(ast.parse(code))) == count


def test_imports_go_downwards():
    upwards = {}
    for path in PATHS:
        own = room_of(path)
        assert own in ROOMS, f"{own}: a new room needs its place in ROOMS and in docs/architecture.md"
        for line, room in (
            imported_rooms(path) if own != "wellposed" else ()
        ):  # which is a table of names, looked up on first use
            if ROOMS.index(room) > ROOMS.index(own):
                upwards.setdefault((own, room), []).append(f"{path.relative_to(SOURCE)}:{line}")
    assert upwards == {}


def test_the_checker_imports_nothing_of_the_library():
    assert [found for path in PATHS if room_of(path) == "checker" for found in imported_rooms(path)] == []


def test_files_are_short():
    lengths = {
        path.relative_to(SOURCE).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in PATHS
    }
    assert statistics.median(lengths.values()) <= MEDIAN_FILE
    assert [name for name, length in lengths.items() if length > LONGEST_FILE] == []


def test_functions_are_short():
    longer = {
        f"{path.relative_to(SOURCE).as_posix()}: {node.name}"
        for path in PATHS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert longer == set()


def test_every_room_is_in_the_map_of_the_code():
    page = (SOURCE.parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for room in {room_of(path) for path in PATHS} - {"wellposed", "__main__"}:
        assert any(f"`{room}/`" in row or f"`{room}.py`" in row for row in rows), room


MAKERS = {
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "randperm",
    "tensor", "zeros",
}  # fmt: skip


def made_anywhere(tree: ast.AST) -> list[int]:
    """Lines that make a tensor on whatever the default device is."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "torch"
        and node.func.attr in MAKERS
        and not {"device", None} & {word.arg for word in node.keywords}
    ]


def test_tensors_are_made_on_named_devices():
    assert made_anywhere(ast.parse("x = torch.zeros(3)")) and not made_anywhere(
        ast.parse("torch.zeros(3, device='cpu')")
    )
    # The buffers of a normalisation are created where those of torch's own modules are.
    found = {path.relative_to(SOURCE).as_posix() for path in PATHS if made_anywhere(tree_of(path))}
    assert found == {"layers/normalize.py"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1", False), ("def f():\n    return 1", True), ("def f():\n    'Says.'\n    ...", False),
        ("def f():\n    raise NotImplementedError", False), ("class A:\n    def f(self):\n        self.x = 1", True),
    ],
)  # fmt: skip
def test_only_files_whose_functions_do_something_must_be_called(code, expected, tmp_path):
    (tmp_path / "a.py").write_text(code)
    assert computes(tmp_path / "a.py") == expected
