"""What a run folder says of the data that its network was trained on, so that no result needs the data to be understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wellposed.data import TensorData
from wellposed.data.own import source_digest
from wellposed.errors import CheckpointError, DataError
from wellposed.training.config import read_config
from wellposed.training.files import legible, read_json, write_json
from wellposed.training.folder import RunFolder

_UNITS = {"images": "pixel units", "graphs": "units of node features", "vectors": "the inputs' own units"}


@dataclass(frozen=True)
class AboutData:
    """What results about a run must say of its data.

    Attributes:
        inputs: what one sample is: ``"images"``, ``"vectors"`` or ``"graphs"``.
        has_logits: whether the network tells classes apart.
        units: of inputs, and so of radii and constants, in words.
        scale: of radii, in those units: 1 for pixels; for tables the least standard deviation of a column that varies.
        data_sha256: of a user's own file; empty for sets that are known by name.
        classes: names of the classes of a user's own file; empty where they have none.
        remarks: what a reader must know besides, in words.
    """

    inputs: str
    has_logits: bool
    units: str
    scale: float = 1.0
    data_sha256: str = ""
    classes: Sequence[str] = ()
    remarks: Sequence[str] = ()


def described(data: TensorData) -> AboutData:
    """What results must say of a user's own data."""
    source = data.source
    units = _UNITS["images"] if data.inputs == "images" else f"{data.units} in {legible(data.name)}"
    known = (source.sha256, source.classes, source.remarks) if source is not None else ("", (), ())
    return AboutData(data.inputs, data.task.has_logits, units, _scale(data), *known)


def _scale(data: TensorData) -> float:
    """Of radii of interest; see `AboutData`."""
    low, high = data.box
    if data.inputs == "images":
        return 1.0
    return min((std for std, varies in zip(data.std, (high > low).tolist(), strict=True) if varies), default=1.0)


def keep_about(run: Path, data: TensorData) -> None:
    """Note in a run's folder what a user's own data are.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    write_json(RunFolder(run).data, asdict(described(data)), indent=1)


def about_run(run: Path) -> AboutData:
    """What results about a run must say of its data; of a folder that is no run, what is said of images.

    Raises:
        CheckpointError: the run's note of its data is missing or corrupt.
    """
    folder = RunFolder(run)
    if not folder.config.exists():
        return AboutData("images", True, _UNITS["images"])
    config = read_config(folder.config)
    if not config.is_own:
        return AboutData(config.inputs, config.inputs != "vectors", _UNITS[config.inputs])
    try:
        return AboutData(**read_json(folder.data, f"run `wellposed train` for {run}"))
    except TypeError as error:
        raise CheckpointError(f"{folder.data}: corrupt ({error}); train the run again") from error


def own_path(run: Path, configured: str, given: str | None) -> Path:
    """Where the user's own data of a run are now.

    Args:
        run: the run folder.
        configured: where they were when it was trained.
        given: another place; None for that one.

    Raises:
        DataError: they are not there, or not those that the run was trained on.
    """
    path = Path(given or configured)
    if not path.exists():
        raise DataError(f"{path}: the data of {run} are not there any more; say where by --data")
    if source_digest(path) != about_run(run).data_sha256:
        mend = "give those by --data" if given is None else "give those"
        raise DataError(f"{path}: has another SHA-256 than the data that {run} was trained on; {mend}")
    return path
