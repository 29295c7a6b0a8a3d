"""Every command by its name; its module is imported when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from wellposed.errors import choices, require

# Module and function of each command.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train", "train"), "presets": ("presets", "list_presets"), "certify": ("certify", "certify"),
    "attack": ("attack", "attack"), "compare": ("tables", "compare"), "report": ("tables", "report"),
    "reproduce": ("reproduce", "reproduce"), "export": ("export", "export"), "verify": ("verify", "verify"),
    "import": ("imports", "import_weights"), "bench": ("bench", "bench"),
}  # fmt: skip
_WITHOUT_EXTRAS = ("verify", "presets")


def command(name: str) -> Callable[[list[str]], int]:
    """A command by its name.

    Raises:
        InputError: there is none of that name.
        MissingExtraError: the command needs the extra ``train``.
    """
    choices("command", name, tuple(COMMANDS))
    if name not in _WITHOUT_EXTRAS:
        require("tyro", "train")
    module, function = COMMANDS[name]
    found: Callable[[list[str]], int] = getattr(importlib.import_module(f"wellposed.cli.{module}"), function)
    return found
