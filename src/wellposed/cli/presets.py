"""``wellposed presets``: what can be trained by one name."""

from __future__ import annotations

import dataclasses
import json

from wellposed.errors import OptionError
from wellposed.training.shipped import shipped_presets

_USAGE = """usage: wellposed presets [--json]

Lists the presets of `wellposed train --preset NAME`: family, data, minutes of training on one core where they were measured, and
what each is for."""


def list_presets(arguments: list[str]) -> int:
    """``wellposed presets``."""
    if {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return 0
    unknown = set(arguments) - {"--json"}
    if unknown:
        raise OptionError(f"presets has no option {', '.join(sorted(unknown))}; it has --json")
    known = shipped_presets()
    rows = [{"name": name, **dataclasses.asdict(preset)} for name, preset in known.items()]
    if "--json" in arguments:
        print(json.dumps([{key: value for key, value in row.items() if key != "settings"} for row in rows]))
        return 0
    width = max(map(len, known))
    print(f"{'name':<{width}}  {'family':<15} {'data':<8} {'minutes':>7}  shows")
    for name, preset in known.items():
        minutes = "" if preset.minutes is None else f"{preset.minutes:g}"
        print(f"{name:<{width}}  {preset.family:<15} {preset.data:<8} {minutes:>7}  {preset.shows}")
    return 0
