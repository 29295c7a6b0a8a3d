"""Verification of a run's test images one by one: how many are certified, falsified, or left open at each radius."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from wellposed.errors import CertificateError, CheckpointError, check, check_fields
from wellposed.experiments.image_verdicts import ImageVerdicts, Outcome
from wellposed.experiments.radii import check_radii
from wellposed.experiments.results import Attacked, read_attacked
from wellposed.experiments.spreading import spread
from wellposed.experiments.verdict_journal import VerdictJournal
from wellposed.network import materialise
from wellposed.training.files import file_digest, read_json, write_json
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_image_run
from wellposed.verification import verifier_of

_NORMS = {"2": "Euclidean balls", "inf": "ℓ∞ boxes within valid pixels"}  # with what is verified


@dataclass(frozen=True)
class Verified:
    """Verdicts on the first test inputs of a run.

    Attributes:
        norm: ``"2"`` or ``"inf"``.
        radii: of the regions, pixels in [0, 1].
        status: per radius, the status of every input; see `Verdict`.
        methods: per radius, what decided.
        seconds: spent on the images, by all processes and calls together.
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
        check(self.norm in _NORMS, "norm", self.norm, f"must be one of {', '.join(_NORMS)}")
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
    jobs: int = 1,
    ray: str | None = None,
    own_data: str | None = None,
) -> Verified:
    """Verify a run's test images and write ``verified-NORM.json`` into its folder.

    Verdicts are kept as they come in ``verified-NORM.partial.jsonl``: a call that was stopped, however it was, goes on there.

    Args:
        run: the run folder.
        data_root: see `load_images`.
        norm: ``"2"`` or ``"inf"``.
        radii: of the regions.
        limit: only the first so many test images; None for all.
        seconds: per image and radius, after which to give up.
        done: called with the number of images that are finished, and with that of all.
        jobs: see `spread`.
        ray: see `spread`; the cluster needs no folder that its machines share.
        own_data: see `load_run`.

    Raises:
        CertificateError: the model is of a kind that this verification is not about, or a verdict contradicts an attack.
        InputError: an argument is unusable, or no Ray cluster answers.
    """
    check_radii(radii)
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    check(seconds > 0.0, "seconds", seconds, "must be positive")
    check(jobs >= 1, "jobs", jobs, "must be at least 1")
    digest = file_digest(RunFolder(run).weights)
    _, data, model = load_image_run(run, data_root, own_data)
    network = materialise(model)
    work = ImageVerdicts(network, verifier_of(network), norm, sorted(set(radii)), seconds)
    about = {
        "weights_sha256": digest, "data_sha256": data_digest(data.test_x, data.test_y), "norm": norm,
        "radii": work.radii, "seconds": seconds,
    }  # fmt: skip
    journal = VerdictJournal(run / f"verified-{norm}.partial.jsonl", about)
    outcomes = _outcomes(work, data.test_x[:limit], data.test_y[:limit], journal, done, jobs, ray)
    found = verified_of(work, outcomes, digest)
    attacked = read_attacked(run, norm)
    if attacked is not None:
        check_verdicts(found, attacked)
    write_json(run / f"verified-{norm}.json", asdict(found))
    journal.remove()
    return found


def verified_of(work: ImageVerdicts, outcomes: Sequence[Outcome], digest: str = "") -> Verified:
    """The outcomes of pieces of work together.

    Args:
        work: whose outcomes they are.
        outcomes: in the order of the images.
        digest: of the weight file.
    """
    places = range(len(work.radii))
    return Verified(
        work.norm, work.radii,
        status=[[status for outcome in outcomes for status in outcome.status[place]] for place in places],
        methods=[[method for outcome in outcomes for method in outcome.methods[place]] for place in places],
        seconds=sum(outcome.seconds for outcome in outcomes), weights_sha256=digest,
    )  # fmt: skip


def _outcomes(
    work: ImageVerdicts, images: Tensor, labels: Tensor, journal: VerdictJournal, done: Callable[[int, int], None],
    jobs: int,
    ray: str | None,
) -> list[Outcome]:  # fmt: skip
    """Outcomes of all images in their order, those that the journal does not have by work that is spread."""
    size = work.together
    pieces = list(zip(images.split(size), labels.split(size), strict=True))
    found = [journal.outcome(size * place, len(few), len(work.radii)) for place, (few, _) in enumerate(pieces)]
    missing = [place for place, outcome in enumerate(found) if outcome is None]
    count = len(images) - sum(len(pieces[place][1]) for place in missing)
    # Of a slice, which is a view of all images, everything would be sent.
    items = [(pieces[place][0].clone(), pieces[place][1].clone()) for place in missing]
    with closing(spread(work, items, jobs=jobs, ray=ray)) as finished:
        for item, outcome in finished:
            place = missing[item]
            journal.keep(size * place, outcome)
            found[place] = outcome
            count += len(pieces[place][1])
            done(count, len(images))
    return [outcome for outcome in found if outcome is not None]


def data_digest(*tensors: Tensor) -> str:
    """SHA-256 of the numbers of tensors, one after the other."""
    numbers = hashlib.sha256()
    for tensor in tensors:
        numbers.update(tensor.contiguous().numpy().tobytes())
    return numbers.hexdigest()


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


VERDICT_COLUMNS = ("radius", "certified", "at most", "open", "decided by")


def about_verdicts(found: Verified) -> str:
    """What a table of verdicts is about."""
    name, samples = _NORMS[found.norm], len(found.status[0])
    return f"{name} around the first {samples} test images, accuracy in %, {found.seconds / samples:.2f} s per image"


def verdict_cells(found: Verified) -> list[list[str]]:
    """The rows of a table of verdicts, see `VERDICT_COLUMNS`."""
    rows = []
    for place, radius in enumerate(found.radii):
        certified, unknown = (100.0 * found.share(status, place) for status in ("certified", "unknown"))
        steps = ", ".join(f"{name} {count}" for name, count in Counter(found.methods[place]).most_common())
        rows.append([f"{radius:.3g}", *(f"{share:.2f}" for share in (certified, certified + unknown, unknown)), steps])
    return rows


def as_text(run: Path, found: Verified) -> str:
    """The table as aligned text."""
    rows = [f"{a:>8} {b:>10} {c:>8} {d:>6}   {e}" for a, b, c, d, e in (VERDICT_COLUMNS, *verdict_cells(found))]
    return "\n".join([f"{run}: {about_verdicts(found)}", *rows])
