"""What the README and the pages name exists, and tables come from records; `test_site.py` runs their blocks."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_every_make_target_exists():
    text = README.read_text(encoding="utf-8") + (README.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z-]+)", text)) - {"in"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_tables_of_results_come_from_the_records():
    import importlib.util

    path = README.parent / "docs" / "render.py"
    spec = importlib.util.spec_from_file_location("render", path)
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    page = (README.parent / "docs" / "results.md").read_text(encoding="utf-8")
    tables = render.tables()
    assert tables
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in page
    assert render.rendered(page) == page


def test_every_picture_of_the_documents_is_there():
    for page in (README, *(README.parent / "docs").glob("*.md")):
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
