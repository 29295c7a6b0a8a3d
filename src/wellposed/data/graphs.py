"""Graph classification sets of TU Dortmund, read with torch_geometric, and the folds they are evaluated on."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from typing_extensions import override

from wellposed.data.base import Data
from wellposed.data.files import ENVIRONMENT_VARIABLE, data_folder, fetch, readable
from wellposed.data.tasks import Classification, Task
from wellposed.errors import DataError, check, choices, require
from wellposed.names import FOLDS

_ANEW = "move the folder away and run again to download the published set"
_URL = "https://www.chrsmrrs.com/graphkerneldatasets/"
_PARTS = ("A", "graph_indicator", "graph_labels", "node_labels")
# SHA-256 of the four files of _PARTS, one after the other.
_DIGESTS = {
    "MUTAG": "085a98747a517516d0c41bffcf4c272ff76e618abecdc02035f7466a6dcbfc98",
    "PTC_MR": "961e4d3f90c50971f9270d0615f27561c092d37ee67ba2008bc98da07842a51e",
    "COX2": "95b6debf45fccaf5c0ce0256540b95f01e969a19aee4ee629df9bb55bf768207",
    "PROTEINS": "b3a7da3a98832225f3203e5862ad8dcd17d65a3b7110b02b4a6f5fd617551acb",
    "NCI1": "db1b6c5d0ded9e940cb235690037714c995cc7f27c315ad9d61e3be6795ce77f",
}
GRAPH_NAMES = tuple(_DIGESTS)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class GraphData(Data):
    """A set of labelled graphs and one way of dividing it.

    Attributes:
        name: of the set.
        graphs: all graphs, ``torch_geometric.data.Data`` with one-hot node labels for ``x``.
        labels: classes of all graphs, int64, shape (graphs,).
        train: indices of the graphs to train on.
        validation: indices of the graphs to choose an epoch with.
        test: indices of the graphs that are held out.
    """

    inputs = "graphs"
    name: str
    graphs: list[Any]
    labels: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} for training, {len(self.validation)} for validation, {len(self.test)} for testing"
        return f"GraphData({self.name}: {sizes}, {self.classes} classes)"

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return (self.graphs[0].x.shape[1],)

    @property
    @override
    def evaluated(self) -> tuple[str, ...]:
        return (
            "validation",
            "test",
        )  # the conventions of the literature, some of which choose by the second, are compared

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    @property
    @override
    def task(self) -> Task:
        return Classification(self.classes)

    @override
    def labels_of(self, part: str) -> Tensor:
        return self.labels[self._places(part)]

    @override
    def loader(self, part: str, batches: Sampler[Any]) -> DataLoader[Any]:
        places: Any = self._places(part)
        collate: Any = self.batch
        return DataLoader(places, sampler=batches, batch_size=None, collate_fn=collate)

    @override
    def as_graphs(self, argument: str) -> GraphData:
        return self

    def batch(self, chosen: Tensor) -> tuple[Any, Tensor]:
        """Some of the graphs as one ``torch_geometric.data.Batch``, and their classes.

        Args:
            chosen: indices of the graphs, shape (batch,).
        """
        collate = require("torch_geometric.data", "graph").Batch.from_data_list
        return collate([self.graphs[k] for k in chosen.tolist()]), self.labels[chosen]

    def _places(self, part: str) -> Tensor:
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


def load_graphs(name: str, data_root: str | Path | None = None, fold: int = 0) -> GraphData:
    """Load a set by name, divided into eight tenths for training, one for validation and one for testing.

    The tenths are stratified and the same for every seed of a training run. Continuous node attributes and edge labels are
    not used.

    Args:
        name: MUTAG, PTC_MR, COX2, PROTEINS or NCI1.
        data_root: folder with ``TUDataset/NAME/raw/NAME_A.txt`` and so on; see `load_images`.
        fold: which tenth is for testing, 0…9; the next one is for validation.

    Raises:
        InputError: no set has that name, or there is no such fold.
        DataError: a file is missing and cannot be downloaded, or is corrupt.
        MissingExtraError: torch_geometric or scikit-learn is not installed.
    """
    choices("data", name, GRAPH_NAMES)
    check(0 <= fold < FOLDS, "fold", fold, f"must lie in 0…{FOLDS - 1}")
    read_tu_data = require("torch_geometric.io", "graph").read_tu_data
    separate = require("torch_geometric.data.separate", "graph").separate
    selection = require("sklearn.model_selection", "train")
    folder = data_folder(data_root) / "TUDataset" / name / "raw"
    contents = _verified(folder, name)
    # The reader takes whatever lies in a folder; attributes and edge labels are not used, and not verified.
    with tempfile.TemporaryDirectory() as place, readable(folder, "a graph set", _ANEW):
        for part, content in contents.items():
            (Path(place) / f"{name}_{part}.txt").write_bytes(content)
        whole, slices, _ = read_tu_data(place, name)
    count = len(whole.y)
    graphs = [
        separate(cls=whole.__class__, batch=whole, idx=i, slice_dict=slices, decrement=False) for i in range(count)
    ]
    kept = [type(whole)(x=g.x.float(), edge_index=g.edge_index, y=g.y) for g in graphs]
    splitter = selection.StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    tenths = [torch.from_numpy(test) for _, test in splitter.split(torch.zeros(count, device="cpu"), whole.y)]
    later = (fold + 1) % FOLDS
    rest = torch.cat([tenth for i, tenth in enumerate(tenths) if i not in (fold, later)]).sort().values
    return GraphData(name=name, graphs=kept, labels=whole.y, train=rest, validation=tenths[later], test=tenths[fold])


def _verified(folder: Path, name: str) -> dict[str, bytes]:
    """The content of the four files, which are the published ones.

    Raises:
        DataError: one is missing and cannot be downloaded, or another one than published.
    """
    files = {part: folder / f"{name}_{part}.txt" for part in _PARTS}
    missing = [file for file in files.values() if not file.exists()]
    if missing:
        _download(name, folder, missing[0])
    with readable(folder, f"a folder with {', '.join(file.name for file in files.values())}", _ANEW):
        contents = {part: file.read_bytes() for part, file in files.items()}
    if hashlib.sha256(b"".join(contents.values())).hexdigest() != _DIGESTS[name]:
        raise DataError(
            f"{folder}: the SHA-256 of {', '.join(file.name for file in files.values())} together differs from that of the "
            f"published set; {_ANEW}"
        )
    return contents


def _download(name: str, folder: Path, missing: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        archive = zipfile.ZipFile(io.BytesIO(fetch(f"{_URL}{name}.zip")))
        for member in archive.namelist():
            if Path(member).name.startswith(f"{name}_") and member.endswith(".txt"):
                (folder / Path(member).name).write_bytes(archive.read(member))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{missing}: not found, and downloading {name}.zip failed ({error}). Put the files there, or point --data-root or "
            f"{ENVIRONMENT_VARIABLE} to a folder that has TUDataset/{name}/raw/{missing.name}"
        ) from error
