"""Data and published weights, damaged in every way: one line that names the file, or an answer that is right for its bytes.

Files of known sets have published digests, so that any damage is seen; users' own files and published weights have none.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

import wellposed as wp
from harness.damage import DAMAGE, damage, drawn, flips, outcome, write_anew
from harness.mnist_layout import write_images
from wellposed.cli.main import run
from wellposed.data import cifar, graphs, load_file, load_images, svhn
from wellposed.interop import read_published

pytestmark = [pytest.mark.float32, pytest.mark.filterwarnings("ignore::wellposed.errors.OwnFileWarning")]


def offline(*_, **__):
    raise OSError("offline")


@pytest.fixture(autouse=True)
def without_network(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", offline)


def rows_of(data):
    """All inputs with their answers, in whatever order."""
    x = torch.cat([data.train_x, data.test_x]).flatten(1).double().numpy()
    y = torch.cat([data.train_y, data.test_y]).reshape(len(x), -1).double().numpy()
    return np.array(sorted(np.concatenate([x, y], 1).tolist()))


def rows(x, y):
    x, y = np.asarray(x, np.float32).reshape(len(x), -1), np.asarray(y, np.float32).reshape(len(x), -1)
    return np.array(sorted(np.concatenate([x, y], 1).astype(float).tolist()))


# --- own files: a file, how it is read here, and how it is read without this library ---


def archive(folder):
    path, x = folder / "own.npz", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    np.savez(path, x_train=x, y_train=np.arange(40) % 2)
    return (
        path,
        lambda: rows_of(load_file(path)),
        lambda: rows(*[np.load(path)[name] for name in ("x_train", "y_train")]),
    )


def table(folder):
    path, numbers = folder / "own.csv", np.random.default_rng(0).normal(size=(40, 2)).round(3).tolist()
    path.write_text("\n".join(["a,b,y", *(f"{a},{b},{k % 2}" for k, (a, b) in enumerate(numbers))]), encoding="utf-8")

    def expected():
        header, *lines = [line for line in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))) if line]
        wanted = [line[header.index("y")].strip() for line in lines]
        codes = {name: code for code, name in enumerate(sorted(set(wanted)))}
        x = [[float(cell) for name, cell in zip(header, line, strict=True) if name != "y"] for line in lines]
        return rows(x, [codes[name] for name in wanted])

    return path, lambda: rows_of(load_file(path, target="y")), expected


def pictures(folder, ending="png"):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "pictures" / label).mkdir(parents=True)
        for place in range(6):
            found = image.fromarray(pixels.integers(0, 255, (5, 5), dtype=np.uint8))
            found.save(folder / "pictures" / label / f"{place}.{ending}")
    path = folder / "pictures" / "cat" / f"0.{ending}"

    def expected():
        files = sorted(file for file in (folder / "pictures").rglob(f"*.{ending}") if file.is_file())
        x = [np.asarray(image.open(file).convert("RGB")).transpose(2, 0, 1) / np.float32(255) for file in files]
        if all((one == one[:1]).all() for one in x):
            x = [one[:1] for one in x]
        return rows(x, [file.parent.name == "dog" for file in files])

    return path, lambda: rows_of(load_file(folder / "pictures")), expected


def bitmaps(folder):
    return pictures(folder, "bmp")


def idx(folder, file="train-images-idx3-ubyte", packed=False):
    raw = write_images(folder, {"train": 20, "t10k": 20}, (4, 4))
    if not packed:  # as unpacked by hand
        for one in raw.glob("*.gz"):
            one.with_suffix("").write_bytes(gzip.decompress(one.read_bytes()))
            one.unlink()

    def content(name):
        return gzip.decompress((raw / f"{name}.gz").read_bytes()) if packed else (raw / name).read_bytes()

    def expected():
        x = [np.frombuffer(content(f"{part}-images-idx3-ubyte")[16:], np.uint8) for part in ("train", "t10k")]
        y = [np.frombuffer(content(f"{part}-labels-idx1-ubyte")[8:], np.uint8) for part in ("train", "t10k")]
        return rows(np.concatenate(x).reshape(40, 16) / np.float32(255), np.concatenate(y))

    return raw / (f"{file}.gz" if packed else file), lambda: rows_of(load_images("mnist", folder)), expected


def idx_labels(folder):
    return idx(folder, "t10k-labels-idx1-ubyte")


def packed_idx(folder):
    return idx(folder, packed=True)


def weights():
    drawn_ = torch.Generator().manual_seed(0)
    shapes = {
        "U.weight": (3, 4),
        "U.bias": (3,),
        "A.weight": (3, 3),
        "B.weight": (3, 3),
        "Wout.weight": (2, 3),
        "Wout.bias": (2,),
    }
    return {name: torch.randn(shape, generator=drawn_) for name, shape in shapes.items()}


def numbers_of(path, layout):
    found = read_published(path, layout, m=1.0)
    parts = [*found.layers, *found.linears]
    return np.concatenate([part.double().reshape(-1).numpy() for group in parts for part in group.values()])


def published_weights(folder, zipped=True):
    path = folder / "a.pt"
    named = {name if name.startswith("Wout") else f"mon.linear_module.{name}": part for name, part in weights().items()}
    torch.save(named, path, _use_new_zipfile_serialization=zipped)

    def expected():
        read = torch.load(path, map_location="cpu", weights_only=True)
        found = {name.removeprefix("mon.linear_module."): part for name, part in read.items()}
        torch.save({**named, **{key: found[key.removeprefix("mon.linear_module.")] for key in named}}, folder / "b.pt")
        return numbers_of(folder / "b.pt", "locuslab-mondeq")

    return path, lambda: numbers_of(path, "locuslab-mondeq"), expected


def earlier_weights(folder):
    return published_weights(folder, zipped=False)


OWN = [archive, table, pictures, bitmaps, idx, idx_labels, packed_idx, published_weights, earlier_weights]


def check_own(path, load, expected):
    found, said = outcome(load)
    if said:
        assert path.name in said or not path.is_file(), said
        return False
    np.testing.assert_array_equal(found, expected())
    return True


@pytest.mark.parametrize("make", OWN)
def test_own_data_are_read_as_they_should_be(make, tmp_path):
    path, load, expected = make(tmp_path)
    assert check_own(path, load, expected)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("make", OWN)
def test_a_damaged_file_is_named_or_read_as_it_is(make, kind, tmp_path):
    path, load, expected = make(tmp_path)
    damage(path, kind)
    taken = check_own(path, load, expected)
    assert not taken or kind not in ("empty", "a zip", "text", "a pickle")


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", OWN)
def test_flipped_bits_are_seen_or_read_as_they_are(make, count, tmp_path):
    path, load, expected = make(tmp_path)
    for content in flips(path.read_bytes(), count):
        write_anew(path, content)
        check_own(path, load, expected)


# --- .mat files, which another process reads ---


def check_matlab(path, kind):
    scipy_io = pytest.importorskip("scipy.io")
    tensors = weights()
    names = {"U": "U.weight", "u": "U.bias", "A": "A.weight", "B": "B.weight", "C": "Wout.weight", "c": "Wout.bias"}
    scipy_io.savemat(path, {key: tensors[name].reshape(len(tensors[name]), -1).numpy() for key, name in names.items()})
    damage(path, kind)
    found, said = outcome(lambda: numbers_of(path, "semialgebraic"))
    if said:
        assert path.name in said
        return
    read = scipy_io.loadmat(path)
    inner = {name: torch.from_numpy(read[key].astype(float)) for key, name in names.items()}
    torch.save({name: part.reshape(tensors[name].shape) for name, part in inner.items()}, path.with_suffix(".pt"))
    np.testing.assert_array_equal(found, numbers_of(path.with_suffix(".pt"), "locuslab-mondeq"))


@pytest.mark.parametrize("kind", ["missing", "a folder", *drawn("a.mat", 3)])
def test_a_damaged_matlab_file_is_named_or_read_as_it_is(kind, tmp_path):
    check_matlab(tmp_path / "a.mat", kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_every_damage_of_a_matlab_file(kind, tmp_path):
    check_matlab(tmp_path / "a.mat", kind)


# --- known sets: any damage is seen ---


def batches(folder, monkeypatch):
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    for name in cifar._BATCHES:
        content = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]})
        (place / name).write_bytes(content)
        monkeypatch.setitem(cifar._BATCHES, name, hashlib.md5(content).hexdigest())
    return place / "data_batch_3", lambda: load_images("cifar10", folder)


def archive_of_cifar(folder, monkeypatch):
    path = folder / "cifar10-subset" / "cifar10_lossless_subset.npz"
    path.parent.mkdir()
    images, labels = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4)
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    monkeypatch.setitem(cifar._ARCHIVES, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    return path, lambda: load_images("cifar10-lossless", folder)


def street_numbers(folder, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    (folder / "SVHN").mkdir()
    for name in svhn._MD5:
        path = folder / "SVHN" / name
        scipy_io.savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [2]])})
        monkeypatch.setitem(svhn._MD5, name, hashlib.md5(path.read_bytes()).hexdigest())
    return folder / "SVHN" / "test_32x32.mat", lambda: load_images("svhn", folder)


def graph_parts():
    """Twenty paths of three nodes and twenty of four."""
    sizes = [3 + graph % 2 for graph in range(40)]
    first = np.cumsum([1, *sizes])
    edges = [(first[graph] + node, first[graph] + node + 1) for graph in range(40) for node in range(sizes[graph] - 1)]
    return {
        "A": "".join(f"{a}, {b}\n{b}, {a}\n" for a, b in edges),
        "graph_indicator": "".join(f"{graph + 1}\n" * size for graph, size in enumerate(sizes)),
        "graph_labels": "".join(f"{1 if size == 3 else -1}\n" for size in sizes),
        "node_labels": "".join("0\n" * size for size in sizes),
    }


def graph_set(part):
    def make(folder, monkeypatch):
        pytest.importorskip("torch_geometric")
        raw = folder / "TUDataset" / "MUTAG" / "raw"
        raw.mkdir(parents=True)
        parts = graph_parts()
        for name, text in parts.items():
            (raw / f"MUTAG_{name}.txt").write_text(text, encoding="utf-8")
        joined = "".join(parts[name] for name in graphs._PARTS)
        monkeypatch.setitem(graphs._DIGESTS, "MUTAG", hashlib.sha256(joined.encode()).hexdigest())
        return raw / f"MUTAG_{part}.txt", lambda: graphs.load_graphs("MUTAG", folder)

    make.__name__ = f"MUTAG_{part}"
    return make


KNOWN = [batches, archive_of_cifar, street_numbers, *map(graph_set, graph_parts())]


@pytest.mark.parametrize("make", KNOWN, ids=lambda make: make.__name__)
def test_a_damaged_file_of_a_known_set_is_named(make, tmp_path, monkeypatch):
    path, load = make(tmp_path, monkeypatch)
    load()
    content = path.read_bytes()
    for kind in DAMAGE:
        damage(path, kind)
        with pytest.raises(wp.WellposedError, match=path.name) as caught:
            load()
        assert "\n" not in str(caught.value)
        path.rmdir() if path.is_dir() else None
        path.write_bytes(content)
    load()


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if DAMAGE[kind] is not None])
def test_a_damaged_archive_of_graphs_is_named(kind, tmp_path, monkeypatch):
    graph_set("A")(tmp_path, monkeypatch)  # for its digest
    stream, folder = io.BytesIO(), tmp_path / "fetched"
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in graph_parts().items():
            packed.writestr(f"MUTAG/MUTAG_{name}.txt", text)
    content = stream.getvalue()
    monkeypatch.setattr(graphs, "fetch", lambda url: content)
    assert len(graphs.load_graphs("MUTAG", tmp_path / "whole").graphs) == 40
    content = DAMAGE[kind](content)
    found, said = outcome(lambda: graphs.load_graphs("MUTAG", folder))
    assert "MUTAG" in said or len(found.graphs) == 40  # where the bit was in what nobody reads


# --- what the commands say ---


@pytest.mark.parametrize("kind", ["cut at 0.5", "empty", "a pickle", "missing", "a folder"])
@pytest.mark.parametrize("make", [archive, table, pictures, published_weights])
def test_commands_say_it_in_one_line(make, kind, tmp_path, capsys):
    path, *_ = make(tmp_path)
    damage(path, kind)
    if make is published_weights:
        words = ["import", str(path), "--data", "digits", "--out", str(tmp_path / "run")]
    else:
        place = path.parents[1] if make is pictures else path
        words = [
            "train",
            "mondeq",
            "--data",
            str(place),
            "--out",
            str(tmp_path / "run"),
            *(["--target", "y"] * (make is table)),
        ]
        if kind in ("missing", "a folder") and make is pictures:
            return  # which leaves eleven images
        if make is table and kind == "cut at 0.5":
            return  # which leaves half of the rows
    capsys.readouterr()
    assert run(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and path.name in said, said
