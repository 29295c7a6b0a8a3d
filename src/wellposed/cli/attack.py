"""``wellposed attack``: adversarial examples of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.cli.progress import counting
from wellposed.cli.tables import show_table
from wellposed.errors import InputError
from wellposed.experiments.radii import radii_for
from wellposed.training.writer import one_writer_of_run


@dataclass(frozen=True)
class Attack(Common):
    """Attack a run: a minimal-norm attack, projected gradient descent at every radius, Carlini & Wagner, and AutoAttack."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    eps: tuple[float, ...] | None = None
    """Radii, in the units of the inputs; defaults as those of certify."""
    data: str | None = None
    """Where data of your own that the run was trained on are now, if they were moved."""
    norm: Literal["l2", "linf", "l1"] = "l2"
    """Norm of the perturbations."""
    limit: int | None = 500
    """Only the first so many test inputs."""
    steps: int = 40
    """Steps of projected gradient descent."""
    restarts: int = 1
    """Random starts of projected gradient descent."""
    carlini_wagner: int = 0
    """Steps of Carlini & Wagner's attack, for l2; 0 to leave it out."""
    auto: bool = False
    """Also the standard AutoAttack, on what withstood the others: a second per image and radius, or more."""


def attack(arguments: list[str]) -> int:
    """``wellposed attack RUN``."""
    options = parse(Attack, arguments, "wellposed attack")
    from wellposed.experiments.network_folders import refuse_network_folder

    refuse_network_folder(
        options.run, "attack", "needs gradients, which its file has not: attack the run that it is of"
    )
    with one_writer_of_run(options.run):
        return _attack(options, radii_for(options.run, options.eps))


def _attack(options: Attack, radii: tuple[float, ...]) -> int:
    from wellposed.experiments.graph_robustness import attack_graphs, is_on_graphs
    from wellposed.experiments.robustness import attack_run
    from wellposed.experiments.verification import check_verdicts, read_verified
    from wellposed.training.about import about_run

    if is_on_graphs(options.run):
        if options.norm != "l2" or options.carlini_wagner or options.auto:
            raise InputError(
                "norm, carlini_wagner, auto: node features are attacked by projected gradients, in the l2 norm"
            )
        with counting("graphs attacked", quiet=options.json) as done:
            attack_graphs(
                options.run,
                data_root=options.data_root,
                radii=radii,
                limit=options.limit,
                steps=options.steps,
                done=done,
            )
        return show_table(options.run, options)
    norm = options.norm.removeprefix("l")
    with counting("inputs attacked", quiet=options.json) as done:
        found = attack_run(
            options.run, data_root=options.data_root, radii=radii, limit=options.limit, steps=options.steps, done=done,
            norm=norm, restarts=options.restarts, carlini_wagner=options.carlini_wagner, auto=options.auto,
            own_data=options.data,
        )  # fmt: skip
    verified = read_verified(options.run, norm)
    if verified is not None:
        check_verdicts(verified, found)
    if norm == "2":
        return show_table(options.run, options)
    shares = {f"{radius:g}": found.accuracy(radius) for radius in radii}
    about = about_run(options.run)
    result = {
        "run": str(options.run),
        "units": about.units,
        "norm": options.norm,
        "samples": len(found.distances),
        "attacked": shares,
    }
    table = ", ".join(f"{100 * share:.2f} % at {radius}" for radius, share in shares.items())
    return show(
        result,
        f"{options.run}: accuracy under {options.norm} attacks {table}, {len(found.distances)} {about.inputs}, {about.units}",
        options,
    )
