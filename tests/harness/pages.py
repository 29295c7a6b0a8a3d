"""What a test reads of an HTML page, by the parser of Python's library."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A page whose tags are balanced and which needs nothing from elsewhere; any other is an AssertionError.

    Attributes:
        tables: of each the rows, of each row the texts of its cells.
        images: the attributes of each image.
        text: all that a reader sees, with single spaces.
    """

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.images: list[dict[str, str | None]] = []
        self.parts: list[str] = []
        self.open: list[str] = []
        self.attributes: dict[str, dict[str, str | None]] = {}
        assert content.startswith("<!doctype html>")
        self.feed(content)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.attributes[tag] = found
        for name in ("src", "href", "action", "data"):
            assert found.get(name, "data:").startswith("data:"), found[name][:80]
        if tag == "img":
            self.images.append(found)
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"style", "script"} & set(self.open):
            assert "http" not in data and "@import" not in data and "url(" not in data
            return
        self.parts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
