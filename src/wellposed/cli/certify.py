"""``wellposed certify``: constants and radii of a run, its images one by one, or how steep its estimates are."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.cli.progress import counting
from wellposed.cli.tables import show_table
from wellposed.errors import InputError
from wellposed.experiments.radii import radii_for
from wellposed.numerics.shown import at_least, at_most
from wellposed.training.writer import one_writer_of_run

if TYPE_CHECKING:
    from wellposed.experiments.regression import Estimate
    from wellposed.experiments.results import Certified

_DEPLOYED = "the deployed file"


@dataclass(frozen=True)
class Certify(Common):
    """Certify a run: its Lipschitz constant, and the radius of every test image; or verify its images one by one.

    Of a run by regression, the error on its test inputs and its Lipschitz constant.

    The run's network is written as one ONNX file, model.onnx, and beside it certificate.json, which wellposed verify checks.
    """

    run: tyro.conf.Positional[Path] = Path()
    """The run folder; or a network folder of wellposed.save, with --data."""
    eps: tuple[float, ...] | None = None
    """Radii of the table, in units of the inputs; default: 0.05 to 0.5, for tables of your own times the least column's std."""
    limit: int | None = None
    """Only the first so many test inputs."""
    data: str | None = None
    """Test inputs of another set, such as cifar10-lossless for a run on cifar10-jpeg; written to certified-NAME.json. Of a run
    on data of your own: where they are now, or another such file."""
    target: str = ""
    """Of a network folder and a table: the column with the classes."""
    method: Literal["tightest", "product", "metric", "ladder"] = "tightest"
    """product of the blocks' constants; metric, the best diagonal metric for the last layer and its head; or the tightest.
    ladder verifies image by image, up to branch and bound."""
    norm: Literal["l2", "linf", "l1"] = "l2"
    """Norm of perturbations: Euclidean, ℓ∞ (with the ladder: within valid pixels), or ℓ1 (not with the ladder)."""
    deployed: bool = False
    """Certify the answers of the exported file, each with the error that it bounds itself; writes certified-deployed.json."""
    tolerance: float | None = None
    """With --deployed: largest error of the logits for which an answer of the file counts; default: 0.001."""
    seconds: float | None = None
    """Time for the searches of metrics together, 60 where all theorems are asked; what it did not suffice for is said.
    For the ladder: time for one image and radius, after which it stays open; default: 10."""
    jobs: int = 1
    """With the ladder: processes of this machine."""
    ray: str | None = None
    """With the ladder: address of a Ray cluster that does the work instead, auto or HOST:6379."""


def certify(arguments: list[str]) -> int:
    """``wellposed certify RUN``."""
    options = parse(Certify, arguments, "wellposed certify")
    if (options.jobs, options.ray) != (1, None) and (options.method != "ladder" or options.deployed):
        raise InputError(
            f"jobs={options.jobs!r}, ray={options.ray!r}: only --method ladder is spread; leave these options out"
        )
    from wellposed.experiments.network_folders import certify_folder, is_network_folder
    from wellposed.experiments.tables import as_text
    from wellposed.training.about import about_run

    if is_network_folder(options.run):
        if options.deployed or options.method != "tightest":
            raise InputError(
                "deployed, method: a network folder is certified as it stands, by what its certificates claim"
            )
        found = certify_folder(
            options.run, options.data, target=options.target, norm=options.norm.removeprefix("l"), radii=options.eps,
            limit=options.limit,
        )  # fmt: skip
        return show(asdict(found), as_text(found), options)
    if options.target:
        raise InputError(f"target={options.target!r}: is for a network folder and a table; a run knows its column")
    with one_writer_of_run(options.run):
        about = about_run(options.run)
        if about.inputs == "graphs":
            return _graphs(options)
        return _classes(options) if about.has_logits else _numbers(options)


def _graphs(options: Certify) -> int:
    from wellposed.experiments.graph_robustness import certify_graphs

    if (options.data, options.norm, options.method, options.deployed, options.seconds) != (
        None,
        "l2",
        "tightest",
        False,
        None,
    ):
        raise InputError(
            "data, norm, method, deployed, seconds: a run on graphs is certified for its own node features, in the l2 norm"
        )
    with counting("graphs certified", quiet=options.json) as done:
        found = certify_graphs(options.run, data_root=options.data_root, limit=options.limit, done=done)
    _tell(found)
    return show_table(options.run, options)


def _numbers(options: Certify) -> int:
    from wellposed.experiments.regression import as_text, certify_estimates
    from wellposed.experiments.robustness import told_apart

    moved, other = told_apart(options.run, options.data)
    if other is not None or options.deployed or options.method == "ladder":
        raise InputError(
            "data, deployed, method: a network that estimates numbers gets a slope, on its own test inputs"
        )
    with counting("inputs estimated", quiet=options.json) as done:
        found = certify_estimates(
            options.run, data_root=options.data_root, limit=options.limit, done=done,
            method=None if options.method == "tightest" else options.method, norm=options.norm.removeprefix("l"),
            seconds=options.seconds, own_data=moved,
        )  # fmt: skip
    _tell(found)
    return show({"run": str(options.run), **asdict(found)}, as_text(options.run, found), options)


def _classes(options: Certify) -> int:
    from wellposed.experiments.robustness import certify_run, told_apart

    if options.deployed:
        return _deployed(options)
    if options.tolerance is not None:
        raise InputError(f"tolerance={options.tolerance!r}: is about a deployed file; add --deployed, or leave it out")
    if options.method == "ladder":
        return _verify(options)
    _, other = told_apart(options.run, options.data)
    with counting("inputs certified", quiet=options.json) as done:
        found = certify_run(
            options.run, data_root=options.data_root, limit=options.limit, done=done, other_data=options.data,
            method=None if options.method == "tightest" else options.method, norm=options.norm.removeprefix("l"),
            seconds=options.seconds,
        )  # fmt: skip
    _tell(found)
    if other is None and options.norm == "l2":
        return show_table(options.run, options)
    return _show(options, found, other, {})


def _tell(found: Certified | Estimate) -> None:
    """Say why there is no certificate file, if there is none."""
    if found.unfiled:
        print(f"no certificate file was written: {found.unfiled}", file=sys.stderr)


def _show(options: Certify, found: Certified, data: str | None, more: dict[str, Any]) -> int:
    """Print constants and certified shares that are not a part of the run's own table.

    Args:
        options: of the command.
        found: the radii.
        data: name of the data or of what was certified; None for the run's own.
        more: further entries of the result.
    """
    from wellposed.training.about import about_run

    radii, about = radii_for(options.run, options.eps), about_run(options.run)
    remarks = [*(about.remarks if data in (None, _DEPLOYED) else ()), *found.remarks]
    shares = {f"{radius:g}": found.accuracy(radius) for radius in radii}
    result: dict[str, Any] = {
        "run": str(options.run), "data": data, "norm": options.norm, "samples": len(found.best),
        "test_error": found.test_error, "units": about.units,
        "lipschitz": found.lipschitz, "lower_bound": found.lower_bound, "certified": shares,
        "unsolved": found.unsolved, "left_out": list(found.left_out),
        "remarks": remarks, **more,
    }  # fmt: skip
    table = ", ".join(f"{100 * share:.2f} % at {radius}" for radius, share in shares.items())
    text = (
        f"{options.run}{'' if data is None else f' on {data}'}: error {100 * found.test_error:.2f} % on "
        f"{len(found.best)} {about.inputs}, Lipschitz constant "
        f"({options.norm}) at most {at_most(found.lipschitz)}, at least {at_least(found.lower_bound)} ({about.units}), "
        f"certified {table}"
    )
    text += "".join(f", {value} {name}" for name, value in more.items())
    if "float64" in found.radii:
        result["float64"] = {f"{radius:g}": found.accuracy(radius, "float64") for radius in radii}
        text += ", in float64 " + ", ".join(
            f"{100 * share:.2f} % at {radius}" for radius, share in result["float64"].items()
        )
    return show(result, "; ".join([text, *remarks]), options)


def _deployed(options: Certify) -> int:
    from wellposed.experiments.deployment import certify_deployed
    from wellposed.experiments.robustness import told_apart

    moved, other = told_apart(options.run, options.data)
    if other is not None or options.method != "tightest":
        raise InputError("data, method: --deployed certifies the run's own test images by the tightest constants")
    with counting("images certified", quiet=options.json) as done:
        found, refused = certify_deployed(
            options.run, data_root=options.data_root, limit=options.limit,
            tolerance=options.tolerance,
            norm=options.norm.removeprefix("l"), done=done, seconds=options.seconds, own_data=moved,
        )  # fmt: skip
    _tell(found)
    return _show(options, found, _DEPLOYED, {"refused": refused})


def _verify(options: Certify) -> int:
    from wellposed.experiments.robustness import told_apart
    from wellposed.experiments.verification import as_text, verify_run

    moved, other = told_apart(options.run, options.data)
    if other is not None:
        raise InputError(f"data={options.data!r}: the ladder verifies the run's own test images; leave this option out")
    if options.norm == "l1":
        raise InputError("norm='l1': the ladder verifies l2 balls and linf boxes")
    norm = options.norm.removeprefix("l")
    with counting("images verified", quiet=options.json) as done:
        found = verify_run(
            options.run, data_root=options.data_root, norm=norm, radii=radii_for(options.run, options.eps), limit=options.limit,
            seconds=10.0 if options.seconds is None else options.seconds, done=done, jobs=options.jobs, ray=options.ray,
            own_data=moved,
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
    return show(result, as_text(options.run, found), options)
