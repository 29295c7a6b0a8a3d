"""The commands: options as dataclasses, work done by `wellposed.training` and `wellposed.experiments`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from wellposed import checker
from wellposed.cli.options import Common, parse, show
from wellposed.cli.progress import counting
from wellposed.cli.reproduce import reproduce
from wellposed.errors import InputError, choices
from wellposed.experiments.graph_robustness import attack_graphs, certify_graphs, is_on_graphs
from wellposed.experiments.imported import import_run
from wellposed.experiments.report import write_report
from wellposed.experiments.robustness import attack_run, certify_run
from wellposed.experiments.tables import as_text, summarise
from wellposed.experiments.verification import as_text as verified_text
from wellposed.experiments.verification import check_verdicts, read_verified, verify_run
from wellposed.models.families import FAMILIES
from wellposed.training.config import TrainConfig, presets, read_config

_RADII = (0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Train(Common):
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
class Certify(Common):
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
class Attack(Common):
    """Attack a run: a minimal-norm attack, projected gradient descent at every radius, Carlini & Wagner, and AutoAttack."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    eps: tuple[float, ...] = _RADII
    """Radii, pixels in [0, 1]."""
    norm: Literal["l2", "linf", "l1"] = "l2"
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
    """Also the standard AutoAttack, by its authors' package, on what withstood the others: a second per image and radius, or
    more."""


@dataclass(frozen=True)
class Compare(Common):
    """One table for several certified runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The run folders."""
    eps: tuple[float, ...] = _RADII
    """Euclidean radii of the table."""


@dataclass(frozen=True)
class Report(Common):
    """Draw the plots of a certified run and write report.html into its folder."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    eps: tuple[float, ...] = _RADII
    """Euclidean radii of the table."""


@dataclass(frozen=True)
class Import(Common):
    """Published weights as a run folder, to certify, attack and verify."""

    file: tyro.conf.Positional[Path] = Path()
    """The checkpoint; only its tensors are loaded."""
    layout: Annotated[str, tyro.conf.arg(name="as")] = "locuslab-mondeq"
    """Layout of the file: locuslab-mondeq, locuslab-mondeq-conv, locuslab-mondeq-multi, semialgebraic (.mat), lben, lben-lambda,
    lben-gamma, lben-gamma-lambda, lben-mondeq, lben-unconstrained, lben-conv, lben-conv-gamma, lben-conv-gamma-raw, nemon,
    nemon-robust, pcdeq2, pcdeq1-tanh, pcdeq1-softsign, pcdeq1-relu6, the last four with -conv and -multi, and relu-chain for a
    torch.nn.Sequential of linear maps and ReLU."""
    m: float = 1.0
    """Strong-monotonicity constant, or margin, that it was trained with; for nemon the bound of the log norm, below one."""
    gamma: float | None = None
    """Lipschitz bound that it was trained with; default: from the file's name."""
    stride: int | None = None
    """Stride of the first convolution, which files do not hold; default: one, as published."""
    data: str = "mnist"
    """Images that it was trained on."""
    limit: int | None = None
    """Number of test images that the error is measured on; default: all."""
    out: Path | None = None
    """The run folder; default: runs/NAME-OF-THE-FILE."""


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
    options = parse(Train, rest, f"wellposed train {family} [--preset NAME]", Train(config=config))
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
    return show(result, text, options)


def certify(arguments: list[str]) -> int:
    """``wellposed certify RUN``."""
    options = parse(Certify, arguments, "wellposed certify")
    if is_on_graphs(options.run):
        if (options.data, options.norm, options.method) != (None, "l2", "tightest"):
            raise InputError(
                "data, norm, method: a run on graphs is certified for its own node features, in the l2 norm"
            )
        with counting("graphs certified", quiet=options.json) as done:
            certify_graphs(options.run, data_root=options.data_root, limit=options.limit, done=done)
        return _table(options.run, options)
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
    return show(result, text, options)


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
    return show(result, verified_text(options.run, found), options)


def attack(arguments: list[str]) -> int:
    """``wellposed attack RUN``."""
    options = parse(Attack, arguments, "wellposed attack")
    if is_on_graphs(options.run):
        if options.norm != "l2" or options.carlini_wagner or options.auto:
            raise InputError(
                "norm, carlini_wagner, auto: node features are attacked by projected gradients, in the l2 norm"
            )
        with counting("graphs attacked", quiet=options.json) as done:
            attack_graphs(
                options.run,
                data_root=options.data_root,
                radii=options.eps,
                limit=options.limit,
                steps=options.steps,
                done=done,
            )
        return _table(options.run, options)
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
    return show(
        result, f"{options.run}: accuracy under {options.norm} attacks {table}, {len(found.distances)} images", options
    )


def compare(arguments: list[str]) -> int:
    """``wellposed compare RUN RUN …``."""
    options = parse(Compare, arguments, "wellposed compare")
    if not options.runs:
        raise InputError("runs=(): give at least one run folder")
    summaries = [summarise(run, options.eps) for run in options.runs]
    return show([dataclasses.asdict(s) for s in summaries], "\n\n".join(as_text(s) for s in summaries), options)


def report(arguments: list[str]) -> int:
    """``wellposed report RUN``."""
    options = parse(Report, arguments, "wellposed report")
    page, summary = write_report(options.run, options.eps, options.data_root)
    return show(
        {"report": str(page), **dataclasses.asdict(summary)}, f"{as_text(summary)}\n\n{page.resolve()}", options
    )


def import_weights(arguments: list[str]) -> int:
    """``wellposed import FILE``."""
    options = parse(Import, arguments, "wellposed import")
    out = Path("runs") / options.file.stem if options.out is None else options.out
    folder, error = import_run(
        options.file,
        options.layout,
        out,
        data=options.data,
        data_root=options.data_root,
        m=options.m,
        gamma=options.gamma,
        stride=options.stride,
        limit=options.limit,
    )
    text = f"{folder.path}: test error {100 * error:.2f} %"
    return show({"run": str(folder.path), "test_error": error}, text, options)


def verify(arguments: list[str]) -> int:
    """``wellposed verify CERTIFICATE WEIGHTS``."""
    return checker.main(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train, "certify": certify, "attack": attack, "compare": compare, "report": report, "reproduce": reproduce,
    "verify": verify, "import": import_weights,
}  # fmt: skip


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
    return show(dataclasses.asdict(summary), as_text(summary), options)
