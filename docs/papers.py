"""Write docs/papers/*.md and their pictures from the results in docs/records/papers.

``python docs/papers.py RESULT…`` first copies results, such as runs/reproduce/monotone-fig1b.json, into that folder. A folder
among them, such as runs/reproduce, gives what was measured there for recipes that are not finished.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from wellposed.reproduction.cell import Workspace
from wellposed.reproduction.collection import RECIPES
from wellposed.reproduction.pages import write_pages
from wellposed.reproduction.unfinished import keep_unfinished

DOCS = Path(__file__).parent
RECORDS = DOCS / "records" / "papers"


def main(results: list[str]) -> None:
    RECORDS.mkdir(parents=True, exist_ok=True)
    for path in map(Path, results):
        if path.is_dir():
            keep_unfinished(Workspace(path, None), RECORDS, RECIPES.values())
        else:
            shutil.copy(path, RECORDS)
    write_pages(RECORDS, DOCS)


if __name__ == "__main__":
    main(sys.argv[1:])
