"""Write the tables of docs/results.md from the records in docs/records, which `wellposed reproduce` made.

``python docs/render.py RECORD…`` first copies records.json and folds.json files of finished experiments.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from wellposed.experiments.graph_folds import FoldSummary, Line
from wellposed.experiments.graph_folds import as_markdown as folds_markdown
from wellposed.experiments.presets import Record
from wellposed.experiments.presets import as_markdown as presets_markdown

DOCS = Path(__file__).parent
RECORDS = DOCS / "records"


def tables() -> dict[str, str]:
    """Markdown of every record, by name."""
    found = {}
    for path in sorted(RECORDS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            found[path.stem] = presets_markdown([Record(**entry) for entry in content])
        else:
            content.pop("sha256", None)
            lines = [Line(**line) for line in content.pop("lines")]
            found[path.stem] = folds_markdown(FoldSummary(**content, lines=lines))
    return found


def rendered(page: str) -> str:
    """The page with every table between its markers written anew."""
    for name, table in tables().items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        page = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", f"{begin}\n{table}\n{end}", page, flags=re.DOTALL)
    return page


def main(records: list[str]) -> None:
    RECORDS.mkdir(exist_ok=True)
    for path in map(Path, records):
        content = json.loads(path.read_text(encoding="utf-8"))
        name = "presets" if isinstance(content, list) else f"graphs-{content['data']}"
        shutil.copyfile(path, RECORDS / f"{name}.json")
    page = DOCS / "results.md"
    page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
