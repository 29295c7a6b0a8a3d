"""The names of all activations, as the error for an unknown name lists them."""

from __future__ import annotations

import re

import wellposed as wp


def activation_names() -> tuple[str, ...]:
    try:
        wp.activation("no such activation")
    except wp.InputError as error:
        return tuple(re.findall(r"'(\w+)'", str(error)))
    raise AssertionError("an unknown name was accepted")
