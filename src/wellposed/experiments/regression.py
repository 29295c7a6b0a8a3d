"""What is proved of a network that estimates numbers: its error on test inputs, and how steep it is anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from wellposed.certificates import certify
from wellposed.certificates.order import must_be_ordered
from wellposed.data import Regression
from wellposed.deployment.export import TOLERANCE
from wellposed.errors import InputError, check, check_fields
from wellposed.experiments.certificate_files import file_certificate
from wellposed.experiments.results import NORMS, in_norm, parsed
from wellposed.experiments.tables import between
from wellposed.network import materialise
from wellposed.numerics.norm import norm_named
from wellposed.training.about import about_run
from wellposed.training.files import file_digest, write_json
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_run

_BATCH = 1000
_WITNESS_INPUTS = 64
_NO_SPREAD = 1e-4  # of estimates, per standard deviation of their targets
SLOPE_UNITS = "units of the targets per unit of the inputs"


@dataclass(frozen=True)
class Estimate:
    """The error and the steepness of a run by regression.

    Attributes:
        norm: of inputs and outputs.
        samples: how many test inputs.
        error: root of the mean squared error on them, in the unit of the targets.
        slope: upper bound of the Lipschitz constant, from stored inputs to outputs.
        lower_bound: proved lower bound of it.
        unsolved: how many inputs the solve did not converge for.
        method: how the constant was obtained.
        left_out: what the budget of the certificate did not suffice for, in words.
        unfiled: why there is no certificate file; empty where there is one.
        weights_sha256: digest of the weight file.
        mean_error: root of the mean squared error of whoever always says the targets' mean; None where that was not noted.
        is_constant: whether the estimates are the same for all these inputs; None where that was not noted.
    """

    norm: str
    samples: int
    error: float
    slope: float
    lower_bound: float
    unsolved: int
    method: str
    left_out: Sequence[str]
    unfiled: str
    weights_sha256: str
    mean_error: float | None = None
    is_constant: bool | None = None

    def __post_init__(self) -> None:
        must_be_ordered(self.lower_bound, self.slope)
        check_fields(self, finite=False)
        check(self.norm in NORMS, "norm", self.norm, f"must be one of {', '.join(NORMS)}")

    @property
    def warning(self) -> str:
        """What a reader must know before all else: that nothing was learned; else empty."""
        if self.is_constant:
            return "its estimates are constant: it has learned nothing, and a small slope of it says nothing"
        if self.mean_error is not None and self.error >= self.mean_error:
            return Regression.unlearned
        return ""


def certify_estimates(
    run: Path, *, data_root: Path | None, limit: int | None, done: Callable[[int, int], None], method: str | None = None,
    norm: str = "2", seconds: float | None = None, own_data: str | None = None,
) -> Estimate:  # fmt: skip
    """Certify a run by regression, and write ``slope.json``, ``model.onnx`` and its ``certificate.json`` into its folder.

    Args:
        run: the run folder.
        data_root: see `load_images`.
        limit: only the first so many test inputs; None for all.
        done: called with the number of inputs that are finished, and with that of all.
        method: of the constant, see `wellposed.certify`.
        norm: of inputs and outputs; where it is not the Euclidean one, files are ``slope-NORM.json`` and
            ``certificate-NORM.json``.
        seconds: for searches of metrics, see `wellposed.certify`.
        own_data: see `load_run`.

    Raises:
        CertificateError: the network has no certificate.
        InputError: the run's targets are classes.
    """
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    norm = norm_named(norm)
    _, found, model = load_run(run, data_root, own_data)
    data = found.as_tensors(f"run={str(run)!r}")
    if data.task.has_logits:
        raise InputError(f"run={str(run)!r}: tells classes apart; this is about numbers that are estimated")
    x, targets = data.test_x[:limit], data.test_y[:limit]
    network = materialise(model, tuple(x.shape[1:]))
    certificate = certify(
        network, norm=norm, inputs=x[:: max(1, len(x) // _WITNESS_INPUTS)], method=method, seconds=seconds
    )
    assert certificate.lower_bound is not None  # inputs were given
    estimates, unsolved, count = list[Tensor](), 0, 0
    for inputs in x.split(_BATCH):
        result = network.bounded(inputs)
        estimates.append(result.logits.double())
        unsolved += int(result.unsolved.sum())
        count += len(inputs)
        done(count, len(x))
    said, wanted = torch.cat(estimates), targets.double()
    unfiled = file_certificate(run, certificate, TOLERANCE * data.task.unit)
    estimate = Estimate(
        norm, count, root_mean_square(said - wanted), certificate.lipschitz, certificate.lower_bound, unsolved,
        certificate.method, certificate.left_out, unfiled, file_digest(RunFolder(run).weights),
        root_mean_square(wanted - wanted.mean(0)), is_constant(said, wanted),
    )  # fmt: skip
    write_json(in_norm(RunFolder(run).slope, norm), asdict(estimate))
    return estimate


def root_mean_square(differences: Tensor) -> float:
    """Root of the mean square of all entries.

    Args:
        differences: shape (samples, outputs).
    """
    return float(differences.square().mean().sqrt())


def is_constant(estimates: Tensor, targets: Tensor) -> bool:
    """Whether estimates vary by less than a ten-thousandth of the standard deviation of what they estimate.

    Args:
        estimates: shape (samples, outputs).
        targets: of the same shape.
    """
    spread = (estimates.amax(0) - estimates.amin(0)).max()
    return bool(spread <= _NO_SPREAD * root_mean_square(targets - targets.mean(0)))


def read_estimate(run: Path, norm: str = "2") -> Estimate:
    """What `certify_estimates` wrote, if it is about the weights that are there.

    Raises:
        CheckpointError: it is missing, corrupt or about other weights.
    """
    return parsed(Estimate, in_norm(RunFolder(run).slope, norm), "certify", run)


def slope_text(found: Estimate) -> str:
    """The bounds of a slope, in words."""
    name = {"2": "l2", "inf": "linf", "1": "l1"}[found.norm]
    return f"slope ({name}) {between(found.lower_bound, found.slope, SLOPE_UNITS)}"


ERROR_COLUMNS = ("test inputs", "error", "error of the targets' mean")


def error_cells(found: Estimate) -> list[str]:
    """A row of the table of errors, see `ERROR_COLUMNS`; a dash for what was not noted."""
    mean = "–" if found.mean_error is None else f"{found.mean_error:.4g}"
    return [str(found.samples), f"{found.error:.4g}", mean]


def error_text(found: Estimate) -> str:
    """The error of a run by regression, in words."""
    samples, error, mean = error_cells(found)
    beside = "" if found.mean_error is None else f"; {mean} for whoever always says their mean"
    return f"root mean squared error {error} on {samples} test inputs (unit of the targets{beside})"


def remarks_on(run: Path, found: Estimate) -> list[str]:
    """What else a reader of an estimate must know, in words."""
    solves = [f"the solve did not converge for {found.unsolved} inputs"] if found.unsolved else []
    return [*about_run(run).remarks, *solves, *(f"left out: {part}" for part in found.left_out)]


def as_text(run: Path, found: Estimate) -> str:
    """One line about an estimate, and what its reader must know, first whether nothing was learned."""
    first = f"{found.warning}; " if found.warning else ""
    text = f"{run}: {first}{error_text(found)}, {slope_text(found)}"
    about = about_run(run)
    if about.data_sha256:
        text += f", inputs in {about.units}"
    return "; ".join([text, *remarks_on(run, found)])
