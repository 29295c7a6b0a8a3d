"""The loader: standard files, checksums, clear errors."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.data import load_images
from wellposed.data.mnist import parse_idx
from wellposed.errors import DataError, OwnFileWarning

pytestmark = pytest.mark.usefixtures("short_search")
REAL = os.environ.get("WELLPOSED_DATA")
needs_data = pytest.mark.skipif(REAL is None, reason="WELLPOSED_DATA is not set")


def test_digits():
    data = load_images("digits")
    assert data.train_x.shape[1:] == (1, 8, 8)
    assert len(data.train_x) + len(data.test_x) == 1797
    assert 0.0 == float(data.train_x.min()) < float(data.train_x.max()) == 1.0
    assert float(data.train_x.mean()) == pytest.approx(data.mean[0], abs=2e-3)
    assert float(data.train_x.std()) == pytest.approx(data.std[0], abs=2e-3)


def test_a_set_answers_for_its_samples():
    data = load_images("digits")
    assert data.shape == (1, 8, 8) and data.as_images("x") is data and "digits" in repr(data) and len(repr(data)) < 200
    batches = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(range(10)), 4, drop_last=False)
    seen = list(data.loader("test", batches))
    assert [len(labels) for _, labels in seen] == [4, 4, 2]
    assert torch.equal(torch.cat([images for images, _ in seen]), data.test_x[:10])
    assert torch.equal(torch.cat([labels for _, labels in seen]), data.labels_of("test")[:10])
    with pytest.raises(wp.InputError, match="run=3: a run on the images of digits; this needs a run on graphs"):
        data.as_graphs("run=3")


def test_unknown_name():
    with pytest.raises(wp.InputError, match="Did you mean 'mnist'"):
        load_images("mnits")


def test_missing_file_names_what_to_put_where(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError, match=r"MNIST/raw/t10k-images-idx3-ubyte.gz: not found.*--data-root"):
        load_images("mnist", tmp_path)


def test_corrupt_file_is_refused(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"not mnist"))
    with (
        pytest.warns(OwnFileWarning, match="another file"),
        pytest.raises(DataError, match="not an IDX file") as refusal,
    ):
        load_images("mnist", tmp_path)
    assert "elete" not in str(refusal.value)


def test_download_is_checked(tmp_path, monkeypatch):
    import io

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(b"a captive portal"))
    with pytest.warns(OwnFileWarning, match="another file"), pytest.raises(DataError, match="not a gzip file"):
        load_images("mnist", tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x0d\x01\0\0\0\x01aaaa", b"\0\0\x08\x01\0\0\0\x05abc", b"\0\0\x08\x03\0\0"]
)
def test_idx_refusals(content):
    with pytest.raises(DataError):
        parse_idx(content, "file")


def test_idx_round_trip():
    content = b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(range(6))
    assert parse_idx(content, "file").tolist() == [[0, 1, 2], [3, 4, 5]]


@needs_data
@pytest.mark.parametrize(("name", "first"), [("mnist", [5, 0, 4, 1, 9]), ("fashion-mnist", [9, 0, 0, 3, 0])])
def test_real_sets(name, first):
    data = load_images(name)
    assert data.train_x.shape == (60_000, 1, 28, 28)
    assert data.test_x.shape == (10_000, 1, 28, 28)
    assert data.train_y[:5].tolist() == first
    assert data.train_x.dtype == torch.float32
    assert float(data.train_x.mean()) == pytest.approx(data.mean[0], abs=1e-3)
    assert Path(REAL or ".").exists()


# --- colour images ---


def cifar_batches(folder, monkeypatch, payload=None):
    """The six files of CIFAR-10's python layout with four images each, and their digests."""
    import hashlib
    import pickle

    import numpy as np

    from wellposed.data import cifar

    folder = folder / "cifar-10-batches-py"
    folder.mkdir()
    for index, name in enumerate(cifar._BATCHES):
        pixels = np.full((4, 3072), 10 * index, dtype=np.uint8)
        pixels[:, :1024] += np.arange(4, dtype=np.uint8)[:, None]  # red only
        content = pickle.dumps({"data": pixels, "labels": [0, 1, 2, index]} if payload is None else payload)
        (folder / name).write_bytes(content)
        monkeypatch.setitem(cifar._BATCHES, name, hashlib.md5(content).hexdigest())
    return folder


def test_cifar_in_its_standard_layout(tmp_path, monkeypatch):
    cifar_batches(tmp_path, monkeypatch)
    data = load_images("cifar10", tmp_path)
    assert data.train_x.shape == (20, 3, 32, 32) and data.test_x.shape == (4, 3, 32, 32)
    assert data.train_y.tolist()[4:8] == [0, 1, 2, 1]
    torch.testing.assert_close(data.train_x[5, :, 0, 0] * 255, testing.tensor([11.0, 10.0, 10.0]))  # channels first
    assert data.test_y.tolist() == [0, 1, 2, 5]


def test_a_cifar_file_that_runs_code_is_refused(tmp_path, monkeypatch):
    class Harmful:
        def __reduce__(self):
            return os.system, ("touch harmed",)

    monkeypatch.chdir(tmp_path)
    cifar_batches(tmp_path, monkeypatch, Harmful())
    with pytest.raises(DataError, match="would run other code"):
        load_images("cifar10", tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_missing_and_changed_colour_sets(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError, match="Unpack cifar-10-python.tar.gz"):
        load_images("cifar10", tmp_path)
    with pytest.raises(DataError, match="cifar10-jpeg/cifar10_jpeg_q75.npz"):
        load_images("cifar10-jpeg", tmp_path)
    with pytest.raises(DataError, match=r"train_32x32.mat: not found.*--data-root"):
        load_images("svhn", tmp_path)
    folder = cifar_batches(tmp_path, monkeypatch)
    (folder / "data_batch_3").write_bytes(b"something else")
    with pytest.raises(DataError, match="data_batch_3: MD5 differs"):
        load_images("cifar10", tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="unpack the whole"):
        load_images("cifar10", tmp_path)


def as_published(monkeypatch, path):
    """Let a file of a test pass for the published one of its name."""
    import hashlib

    from wellposed.data import cifar, svhn

    content = path.read_bytes()
    if path.suffix == ".npz":
        monkeypatch.setitem(cifar._ARCHIVES, path.name, hashlib.sha256(content).hexdigest())
    else:
        monkeypatch.setitem(svhn._MD5, path.name, hashlib.md5(content).hexdigest())


def test_archives_of_cifar(tmp_path, monkeypatch):
    import io

    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    lossless = tmp_path / "cifar10-subset"
    lossless.mkdir()
    images = generator.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    path = lossless / "cifar10_lossless_subset.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    with pytest.raises(DataError, match="cifar10_lossless_subset.npz: SHA-256 differs"):
        load_images("cifar10-lossless", tmp_path)
    as_published(monkeypatch, path)
    data = load_images("cifar10-lossless", tmp_path)
    torch.testing.assert_close(data.train_x[3, 1] * 255, testing.tensor(images[3, :, :, 1]).float())
    assert data.test_y.tolist() == [0, 1]
    smooth = np.tile(np.linspace(0, 255, 32).astype(np.uint8)[:, None, None], (1, 32, 3))
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, "JPEG", quality=95)
    jpeg = np.frombuffer(stream.getvalue() * 2, dtype=np.uint8)
    offsets = np.array([0, len(jpeg) // 2, len(jpeg)])
    folder = tmp_path / "cifar10-jpeg"
    folder.mkdir()
    parts = {f"{s}_{p}": v for s in ("train", "test") for p, v in
             (("jpeg", jpeg), ("offsets", offsets), ("labels", np.array([7, 8], dtype=np.uint8)))}  # fmt: skip
    np.savez(folder / "cifar10_jpeg_q75.npz", **parts)
    as_published(monkeypatch, folder / "cifar10_jpeg_q75.npz")
    data = load_images("cifar10-jpeg", tmp_path)
    assert data.train_y.tolist() == [7, 8]
    assert float((data.train_x[1, 0] * 255 - testing.tensor(smooth[:, :, 0]).float()).abs().max()) <= 4
    path.write_bytes(b"not an archive")
    as_published(monkeypatch, path)
    with pytest.raises(DataError, match="not a readable archive"):
        load_images("cifar10-lossless", tmp_path)


def test_svhn(tmp_path, monkeypatch):
    import numpy as np
    from scipy.io import savemat

    folder = tmp_path / "SVHN"
    folder.mkdir()
    pixels = np.zeros((32, 32, 3, 4), dtype=np.uint8)
    pixels[2, 5, 1, 3] = 255
    for split in ("train", "test"):
        savemat(folder / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[1], [2], [10], [9]])})
    with pytest.raises(DataError, match="train_32x32.mat: MD5 differs"):
        load_images("svhn", tmp_path)
    for split in ("train", "test"):
        as_published(monkeypatch, folder / f"{split}_32x32.mat")
    data = load_images("svhn", tmp_path)
    assert data.train_y.tolist() == [1, 2, 0, 9]  # zero is stored as ten
    assert float(data.train_x[3, 1, 2, 5]) == 1.0 and float(data.train_x.sum()) == 1.0
    savemat(folder / "test_32x32.mat", {"X": pixels[:, :, :, :2], "y": np.array([[1], [2], [3]])})
    as_published(monkeypatch, folder / "test_32x32.mat")
    with pytest.raises(DataError, match="for 3 labels"):
        load_images("svhn", tmp_path)


def test_augmentation_shifts_and_mirrors():
    from wellposed.training.module import shift_and_mirror

    torch.manual_seed(0)
    images = testing.zeros(500, 2, 9, 11)
    images[:, 0, 4, 5] = 1.0  # the middle
    images[:, 1, 4, 6] = 1.0  # to its right
    moved = shift_and_mirror(images, 3)
    assert moved.shape == images.shape
    assert torch.equal(moved.sum((1, 2, 3)), testing.full((500,), 2.0))  # nothing left the image
    places = moved[:, 0].flatten(1).argmax(1)
    rows, columns = places // 11 - 4, places % 11 - 5
    assert rows.unique().tolist() == columns.unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    side = moved[:, 1].flatten(1).argmax(1) % 11 - places % 11
    assert sorted(side.unique().tolist()) == [-1, 1]  # mirrored or not, one for the whole image
    assert 0.4 < float((side == 1).float().mean()) < 0.6
    edge = testing.zeros(50, 1, 5, 5)
    edge[:, :, 0] = 1.0
    assert float(shift_and_mirror(edge, 4).sum((1, 2, 3)).min()) == 0.0  # shifted out: zeros come in


@needs_data
def test_real_cifar_archives():
    data = load_images("cifar10-lossless", REAL)
    assert data.train_x.shape == (7897, 3, 32, 32) and data.test_x.shape == (1000, 3, 32, 32)
    assert data.train_x.mean((0, 2, 3)).tolist() == pytest.approx(data.mean, abs=5e-3)


@pytest.mark.float32
def test_colour_images_train_with_augmentation_from_the_command_line(tmp_path, capsys, monkeypatch):
    import numpy as np

    from wellposed.cli.main import run as command

    folder = tmp_path / "cifar10-subset"
    folder.mkdir()
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), np.arange(64, dtype=np.uint8) % 10
    np.savez(folder / "cifar10_lossless_subset.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    as_published(monkeypatch, folder / "cifar10_lossless_subset.npz")
    options = ["--data", "cifar10-lossless", "--augment", "--epochs", "1", "--width", "4", "--batch-size", "32"]
    out = str(tmp_path / "run")
    assert command(["train", "mondeq-conv", *options, "--data-root", str(tmp_path), "--out", out]) == 0
    assert command(["certify", out, "--limit", "10", "--data-root", str(tmp_path), "--eps", "0.1"]) == 0
    assert "Lipschitz constant at most" in capsys.readouterr().out
    assert command(["train", "ignn", "--data", "MUTAG", "--augment", "--data-root", str(tmp_path), "--out", out]) == 2
    assert "augment=True: is for images" in capsys.readouterr().err
