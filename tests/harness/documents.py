"""Runs the blocks of a page in their order, in the current folder, as a reader would.

Python blocks share their names. Of a block of commands, a line runs

- as it stands but for `SMALLER` options, where what it names is there: data (``DATA`` is a small folder of the test), runs and
  files that earlier lines of the page made; training is one epoch, from the command line of a narrow network;
- else, where it takes hours (`LONG`) or starts processes (``--devices``), its own parser reads it: every option and every
  name must exist;
- other programs are not started: the target of ``make``, the script of ``python`` and the extras of ``pip`` must exist.

``make demo`` runs as the commands of that target where later lines take
its run. Blocks that begin with no program are output. Every line of commands is told of, with what was done with it.
"""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from wellposed.cli.main import run

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = ("wellposed", "python", "make", "pip", "ray", ".")
LONG = ("reproduce", "bench", "import")
SMALLER = {
    "train": ("--epochs", "1", "--width", "6"),
    "attack": ("--limit", "4", "--steps", "4", "--eps", "0.1"),
    "certify": ("--limit", "8"),
}
_LADDER = ("--seconds", "1")
_NO_INPUT = ("--out", "--preset", "--ray")  # what follows these is no file that must be there
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class _Read(Exception):
    """The options of a command were read, and nothing else is to happen."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every block of a page."""
    return [(language, text) for language, text in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands(text: str) -> list[str]:
    """The lines of a block of commands without their remarks; none if it is something else."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or lines[0].split()[0] not in PROGRAMS:
        return []
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def run_page(
    page: Path, monkeypatch: pytest.MonkeyPatch, names: dict[str, object], data: Path | None = None
) -> list[tuple[str, str]]:
    """Run a page in the current folder.

    Args:
        page: a file in Markdown.
        monkeypatch: for training in small.
        names: what Python blocks know before, and afterwards what they defined.
        data: what ``DATA`` stands for.

    Returns:
        Every command with ``"run"``, ``"read"`` or ``"exists"``.
    """
    _train_in_small(monkeypatch)
    done = []
    demo = any("runs/demo" in line for _, text in blocks(page) for line in commands(text))
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, f"{page.name}: {text.splitlines()[0]}", "exec"), names)
        for line in commands(text) if language in ("", "sh") else []:
            run_demo = demo and line == "make demo"
            done.append((line, _demo(monkeypatch) if run_demo else _command(line, monkeypatch, data)))
    return done


def _command(line: str, monkeypatch: pytest.MonkeyPatch, data: Path | None) -> str:
    program, *words = shlex.split(line)
    if program != "wellposed" and not line.startswith("python -m wellposed.checker"):
        assert _exists(program, words), line
        return "exists"
    words = ["verify", *words[2:]] if program == "python" else words
    words = [str(data) if word == "DATA" and data else word for word in words]
    name = words[0]
    if name in LONG or "--devices" in words or not all(Path(word).exists() for word in _needed(words)):
        _read(words, line, monkeypatch)
        return "read"
    ladder = _LADDER if "ladder" in words else ()
    assert run([*words, *SMALLER.get(name, ()), *ladder]) == 0, line
    return "run"


def _demo(monkeypatch: pytest.MonkeyPatch) -> str:
    """The commands of the target demo of the Makefile."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndemo:")[2].partition("\n\n")[0]
    lines = re.findall(r"^\t\$\(BIN\)/(.*?)(?: > /dev/null)?$", recipe.replace("$(RUN)", "runs/demo"), re.MULTILINE)
    assert len(lines) == 4 and {_command(line, monkeypatch, None) for line in lines} == {"run"}
    return "run"


def _needed(words: list[str]) -> list[str]:
    """Runs, files and folders that a command takes: all words like paths and placeholders but for what it writes."""
    pairs = [(before, word) for before, word in itertools.pairwise(words) if before not in _NO_INPUT]
    named = [word for before, word in pairs if before != "--data" or "." in word]
    return [word for word in named if re.search(r"/|\.[a-z]", word) or word.isupper()]


def _read(words: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the parser of a command read its options; names of recipes must be known."""
    import tyro

    from wellposed.reproduction.collection import PAPERS, RECIPES

    if words[0] == "verify":  # which has no options but one
        assert all(word == "--exact" for word in words[1:] if word.startswith("-")), line
        return
    original = tyro.cli

    def stop(*arguments, **options):
        read = original(*arguments, **options)
        unknown = set(getattr(read, "names", ())) - {*RECIPES, *PAPERS, "all", "NAME"}
        assert not unknown, f"{line}: {unknown}"
        raise _Read

    with monkeypatch.context() as patch:
        patch.setattr(tyro, "cli", stop)
        with pytest.raises(_Read):
            run(words)


def _exists(program: str, words: list[str]) -> bool:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if program == "make":
        return bool(re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    if program == "python":
        return (ROOT / words[0]).exists()
    if program == "pip":
        wanted = re.findall(r"[\w-]+", words[-1].partition("[")[2])
        return words[0] == "install" and set(wanted) <= set(settings["optional-dependencies"])
    if program == "ray":
        return any("ray" in part for part in settings["optional-dependencies"]["cluster"])
    return words == [".venv/bin/activate"]


def _train_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    import wellposed

    original = wellposed.train
    monkeypatch.setattr(wellposed, "train", lambda *parts, **options: original(*parts, **{**options, "epochs": 1}))
