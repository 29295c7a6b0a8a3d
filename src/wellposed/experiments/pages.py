"""HTML pages that need no other file: their templates, and pictures as parts of them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from wellposed.errors import require


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        title: what it shows, as a heading.
        alt: the same for a person who does not see it, with the numbers that matter.
        source: its data URI.
    """

    title: str
    alt: str
    source: str


def embedded(content: bytes, kind: str) -> str:
    """The data URI of a picture.

    Args:
        content: of its file.
        kind: ``"svg+xml"`` or ``"png"``.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def render(template: str, **content: Any) -> str:
    """A page.

    Args:
        template: name of its file beside this one.
        content: what its template names.
    """
    jinja2 = require("jinja2", "train")
    loader = jinja2.PackageLoader("wellposed", "experiments")
    page: str = (
        jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined)
        .get_template(template)
        .render(**content)
    )
    return page
