"""Write docs/papers/*.md and their pictures from the results in docs/records/papers.

``python docs/papers.py RESULT…`` first copies results, such as runs/reproduce/monotone-fig1b.json, into that folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from wellposed.reproduction.pages import write_pages

DOCS = Path(__file__).parent
RECORDS = DOCS / "records" / "papers"


def main(results: list[str]) -> None:
    RECORDS.mkdir(parents=True, exist_ok=True)
    for path in results:
        shutil.copy(path, RECORDS)
    write_pages(RECORDS, DOCS)


if __name__ == "__main__":
    main(sys.argv[1:])
