"""One self-contained HTML page about a run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from wellposed.errors import require
from wellposed.experiments.plots import draw
from wellposed.experiments.results import read_attacked, read_certified
from wellposed.experiments.tables import Summary, header, summarise
from wellposed.training.files import legible, write_text
from wellposed.training.folder import RunFolder, read_environment

_TITLES = {
    "robustness": "Certified and attacked accuracy",
    "adversarial": "Nearest adversarial examples found",
    "training": "Training",
    "convergence": "The solver keeps its word: certified error against iterations",
}


def write_report(
    run: Path, radii: Sequence[float], data_root: Path | None, own_data: str | None = None
) -> tuple[Path, Summary]:
    """Draw the plots and write ``report.html`` into the run's folder.

    Args:
        run: the run folder.
        radii: Euclidean radii of the table.
        data_root: see `load_images`.
        own_data: see `load_run`.

    Returns:
        The page and the numbers on it.
    """
    jinja2 = require("jinja2", "train")
    folder = RunFolder(run)
    summary = summarise(run, radii)
    attacked = read_attacked(run)
    certified = read_certified(run)
    known = read_environment(run) if folder.environment.exists() else {}
    pictures = draw(run, certified, attacked, data_root, own_data)
    template = jinja2.Environment(autoescape=True).from_string(
        (resources.files("wellposed.experiments") / "report.html.jinja").read_text(encoding="utf-8")
    )
    page = template.render(
        title=run.resolve().name,
        header=header(summary),
        summary=summary,
        attacked=attacked,
        certified=certified,
        config=folder.config.read_bytes().decode(errors="backslashreplace"),
        environment={key: value for key, value in known.items() if key not in ("metrics", "files")},
        pictures=[
            (_TITLES[name], base64.b64encode(pictures[name].read_bytes()).decode())
            for name in _TITLES
            if name in pictures
        ],
    )
    target = run / "report.html"
    write_text(target, legible(page))
    return target, summary
