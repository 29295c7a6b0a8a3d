"""The loader: standard files, checksums, clear errors."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch

import wellposed as wp
from wellposed.data import load_images
from wellposed.data.idx import parse_idx
from wellposed.errors import DataError

REAL = os.environ.get("WELLPOSED_DATA")
needs_data = pytest.mark.skipif(REAL is None, reason="WELLPOSED_DATA is not set")


def test_digits():
    data = load_images("digits")
    assert data.train_x.shape[1:] == (1, 8, 8)
    assert len(data.train_x) + len(data.test_x) == 1797
    assert 0.0 == float(data.train_x.min()) < float(data.train_x.max()) == 1.0
    assert float(data.train_x.mean()) == pytest.approx(data.mean[0], abs=2e-3)
    assert float(data.train_x.std()) == pytest.approx(data.std[0], abs=2e-3)


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
    with pytest.raises(DataError, match="SHA-256 differs"):
        load_images("mnist", tmp_path)


def test_download_is_checked(tmp_path, monkeypatch):
    import io

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(b"a captive portal"))
    with pytest.raises(DataError, match="SHA-256 differs"):
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
