"""``wellposed reproduce``: a paper's experiment, or one of our own, with one command each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.cli.progress import counting
from wellposed.cli.recipes import recipes
from wellposed.errors import check, choices


@dataclass(frozen=True)
class ReproducePresets(Common):
    """Train and certify every preset on MNIST: one table for all families and baselines, three hours on one core."""

    presets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Only these presets."""
    out: Path = Path("runs/presets")
    """Folder of the runs and of records.json; finished runs are not repeated."""


@dataclass(frozen=True)
class ReproduceGraphs(Common):
    """Graph classification as in the papers: every variant on the same folds and seeds, four conventions of reporting."""

    data: str = "MUTAG"
    """Graph set: MUTAG, PTC_MR, COX2, PROTEINS or NCI1."""
    folds: int = 10
    """The first so many of the ten folds."""
    seeds: int = 3
    """Training runs per fold and variant."""
    minutes: float | None = None
    """Begin no further fold after so long."""
    epochs: int | None = None
    """Passes over the training set; by default the presets' own number."""
    dropout: float | None = None
    """Dropout in the head; by default the presets' own."""
    out: Path | None = None
    """Folder of the runs; finished ones are not repeated. Default: runs/graphs-DATA."""


@dataclass(frozen=True)
class ReproduceRisk(Common):
    """A PAC-Bayes risk certificate: Gaussian weights around a network, with a prior from one half of the training set."""

    preset: str = "mnist-accurate"
    """Preset of the network; see wellposed train."""
    scale: float = 0.1
    """Standard deviations of the prior, relative to the size of each weight matrix."""
    epochs: int = 4
    """Passes of the posterior's training; zero keeps the prior."""
    learning_rate: float = 3e-3
    """Of that training."""
    draws: int = 10_000
    """Networks drawn for the certificate."""
    delta: float = 0.05
    """Probability that the certificate fails."""
    out: Path = Path("runs/risk")
    """Folder of risk.json."""


@dataclass(frozen=True)
class ReproduceFalsification(Common):
    """Try to break every certificate, and plant faults to show that they are noticed; fails if a certificate is wrong."""

    trials: int = 1_000_000
    """Trials per method: a network with a pair of inputs, or with a point of a certified region."""
    seed: int = 0
    """Of the campaign."""
    methods: tuple[str, ...] = ()
    """Only these methods, as to share a campaign among processes; default: all."""
    faults: bool = True
    """Whether to plant faults, too."""


@dataclass(frozen=True)
class ReproduceForgeries(Common):
    """Change honest deployed files at random, and judge what their checker accepts; fails if that says something false."""

    trials: int = 20_000
    """Changed files in all."""
    seed: int = 0
    """Of everything."""
    subjects: tuple[str, ...] = ()
    """Only files of these networks."""


_USAGE = """usage: wellposed reproduce NAME [OPTIONS]      (wellposed reproduce NAME --help for the options)
       wellposed reproduce --list               every figure and table of the papers, with its data and hours
       wellposed reproduce all --quick          all of them in small

further experiments: """


def reproduce(arguments: list[str]) -> int:
    """``wellposed reproduce NAME``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE + ", ".join(EXPERIMENTS))
        return 0 if arguments else 2
    if arguments[0] in EXPERIMENTS:
        return EXPERIMENTS[arguments[0]](arguments[1:])
    return recipes(arguments)


def reproduce_presets(arguments: list[str]) -> int:
    """``wellposed reproduce presets``."""
    options = parse(ReproducePresets, arguments, "wellposed reproduce presets")
    from wellposed.experiments.presets import as_markdown, run_presets

    with counting("finished runs", quiet=options.json) as done:
        records = run_presets(options.presets, options.out, data_root=options.data_root, done=done)
    return show([dataclasses.asdict(record) for record in records], as_markdown(records), options)


def reproduce_graphs(arguments: list[str]) -> int:
    """``wellposed reproduce graphs``."""
    options = parse(ReproduceGraphs, arguments, "wellposed reproduce graphs")
    from wellposed.experiments.graph_folds import as_text, run_folds

    out = Path("runs") / f"graphs-{options.data}" if options.out is None else options.out
    with counting("finished runs", quiet=options.json) as done:
        summary = run_folds(
            options.data, out, data_root=options.data_root, seeds=options.seeds, folds=options.folds,
            minutes=options.minutes, epochs=options.epochs, dropout=options.dropout, done=done,
        )  # fmt: skip
    return show(dataclasses.asdict(summary), as_text(summary), options)


def reproduce_risk(arguments: list[str]) -> int:
    """``wellposed reproduce risk``."""
    options = parse(ReproduceRisk, arguments, "wellposed reproduce risk")
    from wellposed.experiments.risk import as_text, certify_risk
    from wellposed.training.config import presets

    known = presets()
    choices("preset", options.preset, tuple(known))
    with counting("networks drawn", quiet=options.json, total=options.draws) as done:
        record = certify_risk(
            known[options.preset], options.out, data_root=options.data_root, scale=options.scale, epochs=options.epochs,
            learning_rate=options.learning_rate, draws=options.draws, delta=options.delta, done=done,
        )  # fmt: skip
    return show(dataclasses.asdict(record), as_text(record), options)


def reproduce_falsification(arguments: list[str]) -> int:
    """``wellposed reproduce falsification``."""
    options = parse(ReproduceFalsification, arguments, "wellposed reproduce falsification")
    from wellposed.falsification.campaign import METHODS, as_text, campaign
    from wellposed.falsification.planted_faults import as_text as faults_text
    from wellposed.falsification.planted_faults import planted_faults

    methods = options.methods or METHODS
    check(options.trials >= 1, "trials", options.trials, "must be positive")
    for method in methods:
        choices("methods", method, METHODS)
    with counting("trials of every method", quiet=options.json, total=options.trials) as done:
        found = campaign(options.trials, seed=options.seed, done=done, methods=methods)
    faults = planted_faults() if options.faults else []
    result = {
        "tallies": {name: dataclasses.asdict(tally) for name, tally in found.tallies.items()},
        "faults": [dataclasses.asdict(fault) for fault in faults],
    }
    show(result, "\n\n".join([as_text(found), *([faults_text(faults)] if faults else [])]), options)
    return 1 if found.violations or not all(fault.caught for fault in faults) else 0


def reproduce_forgeries(arguments: list[str]) -> int:
    """``wellposed reproduce forgeries``."""
    options = parse(ReproduceForgeries, arguments, "wellposed reproduce forgeries")
    from wellposed.falsification.deployed.campaign import as_text, campaign
    from wellposed.falsification.deployed.subjects import SUBJECTS

    check(options.trials >= 1, "trials", options.trials, "must be positive")
    for subject in options.subjects:
        choices("subjects", subject, tuple(SUBJECTS))
    with counting("changed files", quiet=options.json, total=options.trials) as done:
        found = campaign(options.trials, seed=options.seed, subjects=options.subjects or tuple(SUBJECTS), done=done)
    show([dataclasses.asdict(outcome) for outcome in found], as_text(found), options)
    return 1 if any(outcome.reasons for outcome in found) else 0


EXPERIMENTS: dict[str, Callable[[list[str]], int]] = {
    "presets": reproduce_presets, "graphs": reproduce_graphs, "risk": reproduce_risk,
    "falsification": reproduce_falsification, "forgeries": reproduce_forgeries,
}  # fmt: skip
