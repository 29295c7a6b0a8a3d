"""What is proved of a network that estimates numbers: its error on test inputs, and how steep it is anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from wellposed.certificates import certify
from wellposed.certificates.order import must_be_ordered
from wellposed.errors import InputError, check
from wellposed.experiments.certificate_files import file_certificate
from wellposed.experiments.learning import Estimated, as_part, estimated
from wellposed.experiments.results import in_norm
from wellposed.network import materialise
from wellposed.numerics.norm import norm_named
from wellposed.training.about import about_run
from wellposed.training.files import file_digest, write_json
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_run

_BATCH = 1000
_WITNESS_INPUTS = 64


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
        mean_error: see `Estimated`.
        is_constant: see `Estimated`.
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
    mean_error: float
    is_constant: bool

    @property
    def remarks(self) -> list[str]:
        """What a reader must know, in words: nothing learned, inputs not solved, searches left out."""
        nothing = as_part(Estimated(self.error, self.mean_error, self.is_constant).remark)
        solves = [f"the solve did not converge for {self.unsolved} inputs"] if self.unsolved else []
        return nothing + solves + [f"left out: {part}" for part in self.left_out]

    def __post_init__(self) -> None:
        must_be_ordered(self.lower_bound, self.slope)


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
    estimates, unsolved = list[Tensor](), 0
    for inputs in x.split(_BATCH):
        result = network.bounded(inputs)
        estimates.append(result.logits)
        unsolved += int(result.unsolved.sum())
        done(sum(map(len, estimates)), len(x))
    what = estimated(torch.cat(estimates), targets)
    estimate = Estimate(
        norm, len(x), what.error, certificate.lipschitz, certificate.lower_bound, unsolved,
        certificate.method, certificate.left_out, file_certificate(run, certificate), file_digest(RunFolder(run).weights),
        what.mean_error, what.is_constant,
    )  # fmt: skip
    write_json(in_norm(RunFolder(run).slope, norm), asdict(estimate))
    return estimate


def as_text(run: Path, found: Estimate) -> str:
    """One line about an estimate, and what its reader must know."""
    name = {"2": "l2", "inf": "linf", "1": "l1"}[found.norm]
    text = (
        f"{run}: root mean squared error {found.error:.4g} on {found.samples} test inputs, slope ({name}) at most "
        f"{found.slope:.4g}, at least {found.lower_bound:.4g} (ratio {found.slope / max(found.lower_bound, 1e-300):.3g})"
    )
    about = about_run(run)
    if about.data_sha256:
        text += f", inputs in {about.units}"
    return "; ".join([text, *about.remarks, *found.remarks])
