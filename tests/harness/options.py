"""Every option of every command, as the parsers have them, with values that nothing can be done with."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from unittest import mock

import tyro

from wellposed.cli.commands import COMMANDS
from wellposed.cli.main import run
from wellposed.cli.reproduce import EXPERIMENTS
from wellposed.models.families import FAMILIES

WITHOUT_PARSER = ("verify", "presets")  # whose options are flags alone
UNUSABLE: dict[str, tuple[str, ...]] = {
    "int": ("-1", "0", "1.5", "nan", "inf", "1e400", "x", "", f"{10**30}", f"-{10**30}"),
    "float": ("-1", "0", "nan", "inf", "-inf", "1e400", "x", ""),
    "path": ("", "MISSING", "FILE", "FOLDER"),
    "str": ("", "x", "-1", "MISSING", "FOLDER"),
    "choice": ("", "x", "-1", "nan"),
    "bool": (),
}


# Values that an option of that name takes; those of one command under its last word.
USABLE: dict[str, tuple[str, ...]] = {
    "data_root": ("MISSING", "FOLDER"), "measured": ("FOLDER",), "out": ("MISSING", "FOLDER"), "export out": ("MISSING", "FILE"),
    "fold": ("0",), "validation": ("0",), "patience": ("0",), "weight_decay": ("0",), "lipschitz_penalty": ("0",),
    "box_radius": ("0",), "seed": ("0",), "border": ("0",), "gamma": ("0",), "hidden": ("0",), "dropout": ("0",),
    "carlini_wagner": ("0",), "risk epochs": ("0",), "mu": ("-1", "0"),
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One option: the words of its command, its name as it is typed (empty for what has a place), and its kind."""

    command: tuple[str, ...]
    name: str
    field: str
    kind: str
    many: bool


class _Asked(BaseException):
    """What a command asked its parser for."""

    def __init__(self, cls: type[Any], default: Any, prog: str) -> None:
        super().__init__()
        self.cls, self.default, self.prog = cls, default, prog


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command that has a parser, with a family or an experiment where it needs one."""
    for name in COMMANDS:
        if name == "train":
            yield from ((name, family) for family in FAMILIES)
        elif name == "reproduce":
            yield from ((name, experiment) for experiment in (*EXPERIMENTS, "--quick"))
        elif name not in WITHOUT_PARSER:
            yield (name,)


def parser_of(command: tuple[str, ...]) -> tuple[type[Any], Any, str]:
    """Class, defaults and name of what a command reads its options into."""

    def ask(cls: type[Any], *, default: Any = None, prog: str = "", **_: object) -> Any:
        raise _Asked(cls, default, prog)

    with mock.patch.object(tyro, "cli", ask):
        try:
            run(list(command))
        except _Asked as asked:
            return asked.cls, asked.default, asked.prog
    raise AssertionError(f"{command}: asked no parser")


def options_of(command: tuple[str, ...]) -> list[Option]:
    """The options of a command."""
    cls, default, _ = parser_of(command)
    return list(_walk(command, cls, cls() if default is None else default))


def _walk(command: tuple[str, ...], cls: type[Any], default: Any) -> Iterator[Option]:
    hints = get_type_hints(cls, include_extras=True)
    for entry in dataclasses.fields(cls):
        value, hint = getattr(default, entry.name), hints[entry.name]
        if dataclasses.is_dataclass(value):
            yield from _walk(command, type(value), value)
            continue
        plain, named = _plain(hint)
        name = "" if _has_place(hint) else f"--{(named or entry.name).replace('_', '-')}"
        many = get_origin(plain) is tuple
        yield Option(command, name, entry.name, _kind(get_args(plain)[0] if many else plain), many)


def _plain(hint: Any) -> tuple[Any, str | None]:
    """An annotation without None and what is noted beside it; the name that is noted there."""
    named = None
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        named = next((note.name for note in notes if getattr(note, "name", None)), None)
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [part for part in get_args(hint) if part is not types.NoneType]
    return hint, named


def _has_place(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any("positional" in repr(note).lower() for note in get_args(hint)[1:])


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "choice"
    return {int: "int", float: "float", bool: "bool", str: "str", Path: "path"}[hint]


def help_of(command: tuple[str, ...]) -> str:
    """The help of a command, as it is printed."""
    cls, default, prog = parser_of(command)
    written: list[str] = []
    with (
        mock.patch("builtins.print", lambda *words, **_: written.extend(map(str, words))),
        contextlib.suppress(SystemExit),
    ):
        tyro.cli(cls, args=["--help"], prog=prog, default=default, config=(tyro.conf.OmitArgPrefixes,))
    return "\n".join(written)


def commands_once() -> Iterator[Option]:
    """Every option of every command, those that all families share once."""
    shared: set[str] = set()
    for command in commands():
        for option in options_of(command):
            key = option.name if command[0] == "train" and not is_of_family(option) else f"{command} {option.field}"
            if key not in shared:
                shared.add(key)
                yield option


def is_of_family(option: Option) -> bool:
    """Whether an option is a hyper-parameter of the family that is trained."""
    return option.field in {entry.name for entry in dataclasses.fields(FAMILIES[option.command[1]])}


@dataclass(frozen=True)
class Line:
    """A command line with one option whose value is unusable."""

    option: Option
    value: str

    def words(self, before: Sequence[str], places: dict[str, Path]) -> list[str]:
        """The line as it is typed.

        Args:
            before: what the command needs besides.
            places: what stands for the names of places.
        """
        said = str(places.get(self.value, self.value))
        if not self.option.name:
            return [*self.option.command, said]
        typed = [self.option.name, said] if self.option.many else [f"{self.option.name}={said}"]
        return [*self.option.command, *before, *typed]

    def is_named(self, message: str, places: dict[str, Path]) -> bool:
        """Whether a message names the option, or the place that was given."""
        names = {self.option.name.strip("-"), self.option.field, self.option.field.removesuffix("s")} - {""}
        spelled = {name.replace("-", "_") for name in names} | names
        empty = not self.option.name and not self.value and "is empty" in message
        return empty or any(name in message for name in (*spelled, str(places.get(self.value, "\0"))))


def lines() -> Iterator[Line]:
    """Every option of every command with every value that it cannot use."""
    for option in commands_once():
        usable = {*USABLE.get(option.field, ()), *USABLE.get(f"{option.command[-1]} {option.field}", ())}
        yield from (Line(option, value) for value in UNUSABLE[option.kind] if value not in usable)
