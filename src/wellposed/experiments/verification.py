"""Verification of a run's test images one by one: how many are certified, falsified, or left open at each radius."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from wellposed.errors import CertificateError, CheckpointError, check, check_fields
from wellposed.experiments.radii import check_radii
from wellposed.experiments.results import Attacked, read_attacked
from wellposed.network import materialise
from wellposed.numerics.outward import enlarged
from wellposed.training.files import file_digest, read_json, write_json
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_image_run
from wellposed.verification import RegionVerifier, Verdict, verifier_of


@dataclass(frozen=True)
class Verified:
    """Verdicts on the first test inputs of a run.

    Attributes:
        norm: ``"2"`` or ``"inf"``.
        radii: of the regions, pixels in [0, 1].
        status: per radius, the status of every input; see `Verdict`.
        methods: per radius, what decided.
        seconds: spent on everything, on one process.
        weights_sha256: digest of the weight file.
    """

    norm: str
    radii: list[float]
    status: list[list[str]]
    methods: list[list[str]]
    seconds: float
    weights_sha256: str

    def __post_init__(self) -> None:
        check_fields(self)
        counts = {len(row) for row in (*self.status, *self.methods)}
        fits = len(self.status) == len(self.methods) == len(self.radii) > 0 and len(counts) == 1
        check(fits, "status", len(self.status), "must have as many verdicts at every radius")

    def share(self, status: str, place: int) -> float:
        """Fraction of the inputs with a status at the radius of that place."""
        return self.status[place].count(status) / len(self.status[place])


def verify_run(
    run: Path,
    *,
    data_root: Path | None,
    norm: str,
    radii: Sequence[float],
    limit: int | None,
    seconds: float,
    done: Callable[[int, int], None],
) -> Verified:
    """Verify a run's test images and write ``verified-NORM.json`` into its folder.

    Args:
        run: the run folder.
        data_root: see `load_images`.
        norm: ``"2"`` or ``"inf"``.
        radii: of the regions.
        limit: only the first so many test images; None for all.
        seconds: per image and radius, after which to give up.
        done: called with the number of images that are finished, and with that of all.

    Raises:
        CertificateError: the model is of a kind that this verification is not about, or a verdict contradicts an attack.
    """
    check_radii(radii)
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    check(seconds > 0.0, "seconds", seconds, "must be positive")
    start = time.monotonic()
    _, data, model = load_image_run(run, data_root)
    network = materialise(model)
    verifier = verifier_of(network)
    order = sorted(set(radii))
    status: list[list[str]] = [[] for _ in order]
    methods: list[list[str]] = [[] for _ in order]
    count = 0
    for images, labels in zip(data.test_x[:limit].split(500), data.test_y[:limit].split(500), strict=True):
        result = network.bounded(images)
        # The network's own evaluation may err by this at any point of a region whose points are at most r away.
        away = 1.0 if norm == "2" else math.sqrt(images[0].numel())
        reach = torch.tensor(order, dtype=torch.float64, device="cpu") * away
        allowances = enlarged(math.sqrt(2.0) * (result.elsewhere[:, None] + result.growth[:, None] * reach), 6)
        size = verifier.batch_size
        for few, truth, errors in zip(images.split(size), labels.split(size), allowances.split(size), strict=True):
            for place, verdicts in enumerate(_verdicts(verifier, few, truth, order, norm, errors, seconds)):
                status[place] += [verdict.status for verdict in verdicts]
                methods[place] += [verdict.method for verdict in verdicts]
            count += len(few)
            done(count, len(data.test_y[:limit]))
    found = Verified(norm, order, status, methods, time.monotonic() - start, file_digest(RunFolder(run).weights))
    attacked = read_attacked(run, norm)
    if attacked is not None:
        check_verdicts(found, attacked)
    write_json(run / f"verified-{norm}.json", asdict(found))
    return found


def _verdicts(
    verifier: RegionVerifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    radii: list[float],
    norm: str,
    allowances: torch.Tensor,
    seconds: float,
) -> list[list[Verdict]]:
    """Verdicts on all images at increasing radii; what is falsified at one is so at every larger one."""
    found: list[list[Verdict]] = []
    for place, radius in enumerate(radii):
        unknown = Verdict("unknown", "input")
        before = found[-1] if found else [unknown] * len(images)
        settled = [verdict.status in ("falsified", "misclassified") for verdict in before]
        verdicts = [verdict if kept else unknown for verdict, kept in zip(before, settled, strict=True)]
        usable = torch.isfinite(allowances[:, place]).tolist()
        ask = [k for k in range(len(images)) if usable[k] and not settled[k]]
        answers = verifier.verify_batch(
            images[ask], labels[ask].tolist(), radius, norm=norm, allowances=allowances[ask, place].tolist(),
            seconds=seconds,
        )  # fmt: skip
        for k, verdict in zip(ask, answers, strict=True):
            verdicts[k] = verdict
        found.append(verdicts)
    return found


def read_verified(run: Path, norm: str) -> Verified | None:
    """What `verify_run` wrote, if it is about the weights that are there, or None."""
    path = run / f"verified-{norm}.json"
    if not path.exists():
        return None
    content = read_json(path, f"run `wellposed certify {run} --method ladder`")
    try:
        found = Verified(**content)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: corrupt ({error}); verify the run again") from error
    return found if found.weights_sha256 == file_digest(RunFolder(run).weights) else None


def check_verdicts(found: Verified, attacked: Attacked) -> None:
    """No image may be certified at a radius within which an attack on the same weights succeeded.

    Raises:
        CertificateError: one is.
    """
    for radius, row in zip(found.radii, found.status, strict=True):
        for index, (status, distance) in enumerate(zip(row, attacked.distances, strict=False)):
            if status == "certified" and distance <= radius:
                raise CertificateError(
                    f"test input {index}: certified at {radius:g}, but an adversarial example was found at {distance:.6g}: the "
                    "verification is wrong; please report this run"
                )


def as_text(run: Path, found: Verified) -> str:
    """The table as aligned text."""
    name = {"2": "Euclidean balls", "inf": "ℓ∞ boxes within valid pixels"}[found.norm]
    samples = len(found.status[0])
    lines = [
        f"{run}: {name} around the first {samples} test images, accuracy in %, {found.seconds / samples:.2f} s per image",
        f"{'radius':>8} {'certified':>10} {'at most':>8} {'open':>6}   decided by",
    ]
    for place, radius in enumerate(found.radii):
        shares = [100.0 * found.share(status, place) for status in ("certified", "unknown")]
        steps = Counter(found.methods[place])
        lines.append(
            f"{radius:8.3g} {shares[0]:10.2f} {sum(shares):8.2f} {shares[1]:6.2f}   "
            + ", ".join(f"{name} {count}" for name, count in steps.most_common())
        )
    return "\n".join(lines)
