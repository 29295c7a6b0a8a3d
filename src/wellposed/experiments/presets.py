"""Every preset on its images: trained, certified, and recorded in one file that tables are made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wellposed.certificates.order import must_be_ordered
from wellposed.data import load_images
from wellposed.errors import CheckpointError, choices
from wellposed.experiments.radii import RADII
from wellposed.experiments.results import is_certified, read_certified
from wellposed.experiments.robustness import certify_run
from wellposed.numerics.shown import at_least, at_most
from wellposed.training.config import presets, read_config
from wellposed.training.files import file_digest, write_json
from wellposed.training.folder import RunFolder, read_environment
from wellposed.training.run import train


@dataclass(frozen=True)
class Record:
    """What one run showed.

    Attributes:
        preset: its name.
        family: of the network.
        width: of the state, or of the hidden layers.
        seed: of the training.
        test_error: fraction of the test set.
        lipschitz: proved upper bound, pixels to logits.
        lower_bound: proved lower bound.
        deviation: what pixels are divided by inside the model: times this, constants are per normalised pixel.
        certified: fraction of the test set certified at each radius of `RADII`.
        seconds: of training.
        environment: versions and machine.
        remarks: what a reader must know besides, in words; see `Certified`.
    """

    preset: str
    family: str
    width: int
    seed: int
    test_error: float
    lipschitz: float
    lower_bound: float
    deviation: float
    certified: list[float]
    seconds: float
    environment: dict[str, object]
    remarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        must_be_ordered(self.lower_bound, self.lipschitz)


def image_presets() -> tuple[str, ...]:
    """Names of the presets on MNIST that one core can train in minutes."""
    return tuple(name for name, config in presets().items() if config.data == "mnist" and "/" not in name)


def run_presets(
    names: Sequence[str], out: Path, *, data_root: Path | None, done: Callable[[int, int], None]
) -> list[Record]:
    """Train and certify presets, skipping what an earlier call finished, and write ``records.json``.

    Args:
        names: of presets; empty for all of `image_presets`.
        out: folder for the runs and the records.
        data_root: see `load_images`.
        done: called with the number of finished runs, and with that of all.
    """
    known = image_presets()
    chosen = tuple(names) or known
    for name in chosen:
        choices("preset", name, known)
    records = []
    for count, name in enumerate(chosen, 1):
        run, config = RunFolder(out / name), presets()[name]
        if not run.environment.exists():  # written last
            train(config, run.path, data_root=data_root)
        elif read_config(run.config) != config:
            raise CheckpointError(f"{run.path}: a run with other settings; choose another --out or delete it")
        if not _is_fully_certified(run, data_root):
            certify_run(run.path, data_root=data_root, limit=None, done=lambda *_: None)
        records.append(_record(name, run, data_root))
        done(count, len(chosen))
    write_json(out / "records.json", [asdict(record) for record in records], indent=1)
    return records


def _is_fully_certified(run: RunFolder, data_root: Path | None) -> bool:
    """Whether the results are about these weights and the whole test set."""
    if not is_certified(run.path):
        return False
    certified = read_certified(run.path)
    samples = len(load_images(read_config(run.config).data, data_root).test_y)
    return certified.weights_sha256 == file_digest(run.weights) and len(certified.best) == samples


def _record(name: str, run: RunFolder, data_root: Path | None) -> Record:
    config, certified = presets()[name], read_certified(run.path)
    environment = read_environment(run.path)
    seconds = environment.pop("seconds")
    kept = {key: value for key, value in environment.items() if key not in ("metrics", "files")}
    deviation = load_images(config.data, data_root).std[0] if config.family.scales_input else 1.0
    return Record(
        name, config.family.name, config.family.width, config.seed, certified.test_error, certified.lipschitz,
        certified.lower_bound, deviation, [certified.accuracy(radius) for radius in RADII],
        seconds, kept, certified.remarks,
    )  # fmt: skip


def as_markdown(records: Sequence[Record]) -> str:
    """The table of `run_presets`."""
    header = [
        "preset", "test error, %", "Lipschitz constant per pixel", "at least", "per normalised pixel",
        *(f"certified at {radius:g}, %" for radius in RADII), "training, s",
    ]  # fmt: skip
    remarked = any(record.remarks for record in records)
    header += ["remarks"] if remarked else []
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for record in records:
        cells = [
            f"`{record.preset}`", f"{100 * record.test_error:.2f}", at_most(record.lipschitz, 7), at_least(record.lower_bound),
            at_most(record.lipschitz * record.deviation) if record.deviation != 1.0 else "–",
            *(f"{100 * share:.2f}" for share in record.certified), f"{record.seconds:.0f}",
            *(["; ".join(record.remarks)] if remarked else []),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
