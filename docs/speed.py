"""Write docs/speed.md and its pictures from the records in docs/records/speed, which `wellposed bench` and `make gpu` made."""

from __future__ import annotations

from pathlib import Path

from wellposed.benchmarking.page import page, records_in
from wellposed.benchmarking.pictures import draw

DOCS = Path(__file__).parent
RECORDS = DOCS / "records" / "speed"


def main() -> None:
    (DOCS / "speed.md").write_text(page(RECORDS), encoding="utf-8")
    for record in records_in(RECORDS).values():
        draw(record, DOCS / "figures")


if __name__ == "__main__":
    main()
