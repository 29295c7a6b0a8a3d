"""The commands: options as dataclasses, work done by `wellposed.training` and `wellposed.experiments`."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from wellposed import checker
from wellposed.cli.progress import counting
from wellposed.errors import InputError, check, choices
from wellposed.experiments.falsification import as_text as campaign_text
from wellposed.experiments.falsification import campaign
from wellposed.experiments.graph_folds import as_text as folds_text
from wellposed.experiments.graph_folds import run_folds
from wellposed.experiments.imported import import_run
from wellposed.experiments.planted_faults import as_text as faults_text
from wellposed.experiments.planted_faults import planted_faults
from wellposed.experiments.presets import as_markdown, run_presets
from wellposed.experiments.report import write_report
from wellposed.experiments.risk import as_text as risk_text
from wellposed.experiments.risk import certify_risk
from wellposed.experiments.robustness import attack_run, certify_run
from wellposed.experiments.tables import as_text, summarise
from wellposed.experiments.verification import as_text as verified_text
from wellposed.experiments.verification import check_verdicts, read_verified, verify_run
from wellposed.models.families import FAMILIES
from wellposed.training.config import TrainConfig, presets, read_config

_RADII = (0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class _Common:
    data_root: Path | None = None
    """Folder of the data sets, e.g. with MNIST/raw/*.gz; default: $WELLPOSED_DATA, then ~/.cache/wellposed."""
    json: bool = False
    """Print the result as JSON."""
    threads: int | None = None
    """CPU threads; default: torch's own choice."""


@dataclass(frozen=True)
class Train(_Common):
    """Train a classifier into a run folder."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    out: Path | None = None
    """The run folder; default: runs/FAMILY-DATA."""
    resume: bool = False
    """Go on from the last checkpoint in the folder."""
    accelerator: str = "auto"
    """Lightning accelerator: cpu, gpu, auto."""
    devices: str = "1"
    """Lightning devices: a number, or auto."""
    strategy: str = "auto"
    """Lightning strategy: auto, ddp, fsdp, …"""


@dataclass(frozen=True)
class Certify(_Common):
    """Certify a run: its Lipschitz constant, and the radius of every test image; or verify its images one by one."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    eps: tuple[float, ...] = _RADII
    """Euclidean radii of the table, pixels in [0, 1]."""
    limit: int | None = None
    """Only the first so many test images."""
    data: str | None = None
    """Test images of another set, such as cifar10-lossless for a run on cifar10-jpeg; written to certified-NAME.json."""
    method: Literal["tightest", "product", "metric", "ladder"] = "tightest"
    """product of the blocks' constants; metric, the best diagonal metric for the last layer and its head; or the tightest.
    ladder verifies image by image, up to branch and bound."""
    norm: Literal["l2", "linf", "l1"] = "l2"
    """Norm of perturbations: Euclidean, ℓ∞ (with the ladder: within valid pixels), or ℓ1 (not with the ladder)."""
    seconds: float = 10.0
    """For the ladder: time for one image and radius, after which it stays open."""


@dataclass(frozen=True)
class Attack(_Common):
    """Attack a run with foolbox: DeepFool, projected gradient descent at every radius, and Carlini & Wagner's attack."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    eps: tuple[float, ...] = _RADII
    """Radii, pixels in [0, 1]."""
    norm: Literal["l2", "linf"] = "l2"
    """Norm of the perturbations."""
    limit: int | None = 500
    """Only the first so many test images."""
    steps: int = 40
    """Steps of projected gradient descent."""
    restarts: int = 1
    """Random starts of projected gradient descent."""
    carlini_wagner: int = 0
    """Steps of Carlini & Wagner's attack, for l2; 0 to leave it out."""
    auto: bool = False
    """Also AutoAttack's Auto-PGD and Square on what withstood the others, by the adversarial robustness toolbox: a second per
    image and radius, or more."""


@dataclass(frozen=True)
class Compare(_Common):
    """One table for several certified runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The run folders."""
    eps: tuple[float, ...] = _RADII
    """Euclidean radii of the table."""


@dataclass(frozen=True)
class Report(_Common):
    """Draw the plots of a certified run and write report.html into its folder."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    eps: tuple[float, ...] = _RADII
    """Euclidean radii of the table."""


@dataclass(frozen=True)
class Import(_Common):
    """Published weights as a run folder, to certify, attack and verify."""

    file: tyro.conf.Positional[Path] = Path()
    """The checkpoint; only its tensors are loaded."""
    layout: Annotated[str, tyro.conf.arg(name="as")] = "locuslab-mondeq"
    """Layout of the file: locuslab-mondeq, locuslab-mondeq-conv, locuslab-mondeq-multi, semialgebraic (.mat), lben, lben-lambda,
    lben-gamma, lben-gamma-lambda, lben-mondeq, lben-unconstrained, nemon, nemon-robust, pcdeq2."""
    m: float = 1.0
    """Strong-monotonicity constant, or margin, that it was trained with; for nemon the bound of the log norm, below one."""
    gamma: float | None = None
    """Lipschitz bound that it was trained with; default: from the file's name."""
    data: str = "mnist"
    """Images that it was trained on."""
    out: Path | None = None
    """The run folder; default: runs/NAME-OF-THE-FILE."""


@dataclass(frozen=True)
class ReproducePresets(_Common):
    """Train and certify every preset on MNIST: one table for all families and baselines, three hours on one core."""

    presets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Only these presets."""
    out: Path = Path("runs/presets")
    """Folder of the runs and of records.json; finished runs are not repeated."""


@dataclass(frozen=True)
class ReproduceGraphs(_Common):
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
    """Dropout in the head, likewise."""
    out: Path | None = None
    """Folder of the runs; finished ones are not repeated. Default: runs/graphs-DATA."""


@dataclass(frozen=True)
class ReproduceRisk(_Common):
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
class ReproduceFalsification(_Common):
    """Try to break every certificate, and plant faults to show that they are noticed; fails if a certificate is wrong."""

    trials: int = 1_000_000
    """Trials per method: a network with a pair of inputs, or with a point of a certified region."""
    seed: int = 0
    """Of the campaign."""


def train(arguments: list[str]) -> int:
    """``wellposed train FAMILY``."""
    from wellposed.training.run import train as train_run

    known = ", ".join(FAMILIES)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: wellposed train FAMILY [--preset NAME] [OPTIONS]\n\nfamilies: {known}\npresets:  {', '.join(presets())}\n\n"
            f"wellposed train {next(iter(FAMILIES))} --help lists all options; a preset's values are their defaults."
        )
        return 0 if arguments else 2
    family, *rest = arguments
    choices("family", family, tuple(FAMILIES))
    config, rest = _with_preset(family, rest)
    if "--resume" in rest and "--out" in rest[:-1]:
        saved = Path(rest[rest.index("--out") + 1]) / "config.toml"
        config = read_config(saved) if saved.exists() else config
    options = _parse(Train, rest, f"wellposed train {family} [--preset NAME]", Train(config=config))
    out = Path("runs") / f"{family}-{options.config.data}" if options.out is None else options.out
    start = time.time()
    try:
        metrics = train_run(
            options.config, out, data_root=options.data_root, resume=options.resume, progress=not options.json,
            accelerator=options.accelerator, strategy=options.strategy,
            devices=int(options.devices) if options.devices.isdigit() else options.devices,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"wellposed: interrupted; continue with the same command and --resume --out {out}", file=sys.stderr)
        raise
    result = {"run": str(out), "seconds": round(time.time() - start, 1), **metrics}
    text = f"{out}: test accuracy {100 * metrics['test/accuracy']:.2f} % after {result['seconds']} s"
    return _print(result, text, options)


def certify(arguments: list[str]) -> int:
    """``wellposed certify RUN``."""
    options = _parse(Certify, arguments, "wellposed certify")
    if options.method == "ladder":
        return _verify(options)
    with counting("images certified", quiet=options.json) as done:
        found = certify_run(
            options.run, data_root=options.data_root, limit=options.limit, done=done, other_data=options.data,
            method=None if options.method == "tightest" else options.method, norm=options.norm.removeprefix("l"),
        )  # fmt: skip
    if options.data is None and options.norm == "l2":
        return _table(options.run, options)
    shares = {f"{radius:g}": found.accuracy(radius) for radius in options.eps}
    result = {
        "run": str(options.run), "data": options.data, "norm": options.norm, "samples": len(found.best),
        "test_error": found.test_error,
        "lipschitz": found.lipschitz, "lower_bound": found.lower_bound, "certified": shares,
    }  # fmt: skip
    table = ", ".join(f"{100 * share:.2f} % at {radius}" for radius, share in shares.items())
    text = (
        f"{options.run}{'' if options.data is None else f' on {options.data}'}: error {100 * found.test_error:.2f} %, constant "
        f"({options.norm}) at most {found.lipschitz:.4g}, at least {found.lower_bound:.4g}, certified {table}"
    )
    return _print(result, text, options)


def _verify(options: Certify) -> int:
    if options.data is not None:
        raise InputError(f"data={options.data!r}: the ladder verifies the run's own test images; leave this option out")
    if options.norm == "l1":
        raise InputError("norm='l1': the ladder verifies l2 balls and linf boxes")
    norm = options.norm.removeprefix("l")
    with counting("images verified", quiet=options.json) as done:
        found = verify_run(
            options.run, data_root=options.data_root, norm=norm, radii=options.eps, limit=options.limit,
            seconds=options.seconds, done=done,
        )  # fmt: skip
    shares = {
        f"{radius:g}": {
            status: found.share(status, place) for status in ("certified", "falsified", "misclassified", "unknown")
        }
        for place, radius in enumerate(found.radii)
    }
    result = {
        "run": str(options.run),
        "norm": norm,
        "samples": len(found.status[0]),
        "seconds": found.seconds,
        "shares": shares,
    }
    return _print(result, verified_text(options.run, found), options)


def attack(arguments: list[str]) -> int:
    """``wellposed attack RUN``."""
    options = _parse(Attack, arguments, "wellposed attack")
    norm = options.norm.removeprefix("l")
    with counting("images attacked", quiet=options.json) as done:
        found = attack_run(
            options.run, data_root=options.data_root, radii=options.eps, limit=options.limit, steps=options.steps, done=done,
            norm=norm, restarts=options.restarts, carlini_wagner=options.carlini_wagner, auto=options.auto,
        )  # fmt: skip
    verified = read_verified(options.run, norm)
    if verified is not None:
        check_verdicts(verified, found)
    if norm == "2":
        return _table(options.run, options)
    shares = {f"{radius:g}": found.accuracy(radius) for radius in options.eps}
    result = {"run": str(options.run), "norm": options.norm, "samples": len(found.distances), "attacked": shares}
    table = ", ".join(f"{100 * share:.2f} % at {radius}" for radius, share in shares.items())
    return _print(result, f"{options.run}: accuracy under ℓ∞ attacks {table}, {len(found.distances)} images", options)


def compare(arguments: list[str]) -> int:
    """``wellposed compare RUN RUN …``."""
    options = _parse(Compare, arguments, "wellposed compare")
    if not options.runs:
        raise InputError("runs=(): give at least one run folder")
    summaries = [summarise(run, options.eps) for run in options.runs]
    return _print([dataclasses.asdict(s) for s in summaries], "\n\n".join(as_text(s) for s in summaries), options)


def report(arguments: list[str]) -> int:
    """``wellposed report RUN``."""
    options = _parse(Report, arguments, "wellposed report")
    page, summary = write_report(options.run, options.eps, options.data_root)
    return _print(
        {"report": str(page), **dataclasses.asdict(summary)}, f"{as_text(summary)}\n\n{page.resolve()}", options
    )


def reproduce(arguments: list[str]) -> int:
    """``wellposed reproduce EXPERIMENT``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: wellposed reproduce EXPERIMENT [OPTIONS]\n\nexperiments: {', '.join(EXPERIMENTS)}")
        return 0 if arguments else 2
    choices("experiment", arguments[0], tuple(EXPERIMENTS))
    return EXPERIMENTS[arguments[0]](arguments[1:])


def reproduce_presets(arguments: list[str]) -> int:
    """``wellposed reproduce presets``."""
    options = _parse(ReproducePresets, arguments, "wellposed reproduce presets")
    with counting("finished runs", quiet=options.json) as done:
        records = run_presets(options.presets, options.out, data_root=options.data_root, done=done)
    return _print([dataclasses.asdict(record) for record in records], as_markdown(records), options)


def reproduce_graphs(arguments: list[str]) -> int:
    """``wellposed reproduce graphs``."""
    options = _parse(ReproduceGraphs, arguments, "wellposed reproduce graphs")
    out = Path("runs") / f"graphs-{options.data}" if options.out is None else options.out
    with counting("finished runs", quiet=options.json) as done:
        summary = run_folds(
            options.data, out, data_root=options.data_root, seeds=options.seeds, folds=options.folds,
            minutes=options.minutes, epochs=options.epochs, dropout=options.dropout, done=done,
        )  # fmt: skip
    return _print(dataclasses.asdict(summary), folds_text(summary), options)


def import_weights(arguments: list[str]) -> int:
    """``wellposed import FILE``."""
    options = _parse(Import, arguments, "wellposed import")
    out = Path("runs") / options.file.stem if options.out is None else options.out
    folder, error = import_run(
        options.file,
        options.layout,
        out,
        data=options.data,
        data_root=options.data_root,
        m=options.m,
        gamma=options.gamma,
    )
    text = f"{folder.path}: test error {100 * error:.2f} %"
    return _print({"run": str(folder.path), "test_error": error}, text, options)


def verify(arguments: list[str]) -> int:
    """``wellposed verify CERTIFICATE WEIGHTS``."""
    return checker.main(arguments)


def reproduce_risk(arguments: list[str]) -> int:
    """``wellposed reproduce risk``."""
    options = _parse(ReproduceRisk, arguments, "wellposed reproduce risk")
    known = presets()
    choices("preset", options.preset, tuple(known))
    with counting("networks drawn", quiet=options.json) as done:
        record = certify_risk(
            known[options.preset], options.out, data_root=options.data_root, scale=options.scale, epochs=options.epochs,
            learning_rate=options.learning_rate, draws=options.draws, delta=options.delta, done=done,
        )  # fmt: skip
    return _print(dataclasses.asdict(record), risk_text(record), options)


def reproduce_falsification(arguments: list[str]) -> int:
    """``wellposed reproduce falsification``."""
    options = _parse(ReproduceFalsification, arguments, "wellposed reproduce falsification")
    check(options.trials >= 1, "trials", options.trials, "must be positive")
    with counting("trials of every method", quiet=options.json) as done:
        found = campaign(options.trials, seed=options.seed, done=done)
    faults = planted_faults()
    result = {
        "tallies": {name: dataclasses.asdict(tally) for name, tally in found.tallies.items()},
        "faults": [dataclasses.asdict(fault) for fault in faults],
    }
    _print(result, f"{campaign_text(found)}\n\n{faults_text(faults)}", options)
    return 1 if found.violations or not all(fault.caught for fault in faults) else 0


EXPERIMENTS: dict[str, Callable[[list[str]], int]] = {
    "presets": reproduce_presets, "graphs": reproduce_graphs, "risk": reproduce_risk,
    "falsification": reproduce_falsification,
}  # fmt: skip

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train, "certify": certify, "attack": attack, "compare": compare, "report": report, "reproduce": reproduce,
    "verify": verify, "import": import_weights,
}  # fmt: skip


def _parse(cls: type[Any], arguments: list[str], prog: str, default: Any = None) -> Any:
    options = tyro.cli(cls, args=arguments, prog=prog, default=default, config=(tyro.conf.OmitArgPrefixes,))
    if options.threads is not None:
        check(options.threads >= 1, "threads", options.threads, "must be at least 1")
        torch.set_num_threads(options.threads)
    return options


def _with_preset(family: str, arguments: list[str]) -> tuple[TrainConfig, list[str]]:
    if "--preset" not in arguments:
        return TrainConfig(family=FAMILIES[family]()), arguments
    place = arguments.index("--preset")
    name = arguments[place + 1] if place + 1 < len(arguments) else ""
    known = presets()
    choices("preset", name, tuple(known))
    if known[name].family.name != family:
        raise InputError(f"preset={name!r}: belongs to the family {known[name].family.name!r}, not {family!r}")
    return known[name], arguments[:place] + arguments[place + 2 :]


def _table(run: Path, options: Any) -> int:
    summary = summarise(run, options.eps)
    return _print(dataclasses.asdict(summary), as_text(summary), options)


def _print(result: Any, text: str, options: Any) -> int:
    print(json.dumps(result) if options.json else text)
    return 0
