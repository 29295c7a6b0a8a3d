"""What importing makes of files: copies of modules, explicit chains, broken and hostile files, and the reasons that it gives."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from safetensors.torch import save_file
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.data import load_images
from wellposed.errors import CheckpointError
from wellposed.experiments.imported import import_run
from wellposed.interop import matlab, read_dense, read_published
from wellposed.interop.files import read_tensors
from wellposed.training.run import load_image_run

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]

H = 6


def monotone(inputs=64, classes=10):
    generator = testing.generator(0)

    def drawn(*shape):
        return testing.randn(*shape, generator=generator) / shape[-1] ** 0.5

    inner = {"U.weight": drawn(H, inputs), "U.bias": drawn(H), "A.weight": drawn(H, H), "B.weight": drawn(H, H)}
    head = {"Wout.weight": drawn(classes, H), "Wout.bias": drawn(classes)}
    return inner, head


def importing(file, layout, out, **options):
    return import_run(file, layout, out, **{"data": "digits", "data_root": None, "m": 1.0, "gamma": None, **options})


def test_modules_under_two_names_are_read_once(tmp_path):
    inner, head = monotone()
    twice = {
        f"{prefix}{name}": part for prefix in ("linear_module.", "mon.linear_module.") for name, part in inner.items()
    }
    torch.save(twice | head, tmp_path / "twice.params")
    torch.save({f"mon.linear_module.{name}": part for name, part in inner.items()} | head, tmp_path / "once.params")
    twice_read, once_read = (
        read_dense(tmp_path / f"{name}.params", "lben-mondeq", m=1.0) for name in ("twice", "once")
    )
    assert torch.equal(twice_read.matrix, once_read.matrix) and torch.equal(twice_read.weight, once_read.weight)
    other = {**twice, "linear_module.A.weight": inner["A.weight"] + 1e-6}
    torch.save(other | head, tmp_path / "a.params")
    with pytest.raises(CheckpointError, match="'A' that differ"):
        read_dense(tmp_path / "a.params", "lben-mondeq", m=1.0)
    del other["linear_module.A.weight"]
    torch.save(other | head, tmp_path / "a.params")
    with pytest.raises(CheckpointError, match="not copies"):
        read_dense(tmp_path / "a.params", "lben-mondeq", m=1.0)


@pytest.mark.parametrize(
    ("first", "sizes", "prefix"), [(0, (64, 20, 10), ""), (1, (64, 40, 40, 10), ""), (0, (64, 7, 30, 5, 10), "net.")]
)
def test_chains_of_linear_maps_and_relu_are_explicit_networks(first, sizes, prefix, tmp_path, capsys):
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Flatten()] * first
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after), nn.ReLU()]
    network = nn.Sequential(*parts[:-1])
    torch.save({prefix + name: part for name, part in network.state_dict().items()}, tmp_path / "dnn_d3.pt")
    out = tmp_path / "run"
    assert (
        command(["import", str(tmp_path / "dnn_d3.pt"), "--as", "relu-chain", "--data", "digits", "--out", str(out)])
        == 0
    )
    _, images, model = load_image_run(out)
    x = images.test_x[:50]
    expected = network.double()(((x.double() - images.mean[0]) / images.std[0]).flatten(1))
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert command(["certify", str(out), "--limit", "5", "--json"]) == 0
    assert command(["verify", str(out / "certificate.json"), str(out / "model.onnx")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"0.weight": (5, 64), "1.weight": (10, 5)}, "every second place"),
        ({"0.weight": (5, 64), "4.weight": (10, 5)}, "every second place"),
        ({"2.weight": (5, 64), "4.weight": (10, 5)}, "every second place"),
        ({"0.weight": (5, 64), "2.weight": (10, 6)}, "2: takes 6 features, but is given 5"),
        ({"0.weight": (5, 1, 3, 3), "2.weight": (10, 5)}, "0.weight: has shape"),
        ({"0.weight": (5, 64), "2.bias": (10,)}, "2.weight: has nothing"),
        ({"0.weight": (10, 64)}, "one linear map only"),
        ({"a.0.weight": (5, 64), "b.2.weight": (10, 5)}, "several modules"),
        ({"0.weight": (5, 64), "2.weight": (10, 5), "Wout.weight": (10, 5)}, "Wout"),
    ],
)  # fmt: skip
def test_other_sequences_are_refused(tensors, words, tmp_path):
    torch.save({name: testing.ones(shape) for name, shape in tensors.items()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=words):
        read_published(tmp_path / "a.pt", "relu-chain", m=1.0)


def test_the_wrong_layout_names_what_is_missing_and_what_is_left_over(tmp_path):
    inner, head = monotone()
    torch.save(inner | head, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        read_published(tmp_path / "a.pt", "lben", m=1.0)
    message = str(caught.value)
    assert "no tensor 'S', 'V', 'psi'" in message and "'A', 'B', which it does not know" in message
    assert "'lben'" in message and "a.pt" in message
    with pytest.raises(CheckpointError, match=r"no tensor 'block\.deq\.f\.W\.weight_g', .* and 2 more"):
        read_published(tmp_path / "a.pt", "pcdeq2", m=1.0)


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_files_that_cannot_be_read_say_why(tmp_path):
    inner, head = monotone()
    whole = inner | head
    torch.save(whole, tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    place = content.index(inner["A.weight"].numpy().tobytes())
    flipped = bytearray(content)
    flipped[place] ^= 0xFF
    save_file(whole, tmp_path / "safe.pt")
    files = {
        "cut.pt": (content[: len(content) // 2], "truncated or corrupted zip"), "empty.pt": (b"", "empty"),
        "text.pt": (b"not weights at all", "truncated or corrupted|plain dictionary of tensors"),
        "safe.pt": ((tmp_path / "safe.pt").read_bytes(), "safetensors"),
        "code.pt": (pickle.dumps(Payload()), "could run code"),
        "old.pt": (pickle.dumps([1, 2]), "plain dictionary of tensors"),
    }  # fmt: skip
    for name, (data, words) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=words):
            read_tensors(tmp_path / name)
    for value, words in (
        ({"epoch": 3, "state_dict": whole}, "'epoch' is a int"), ({"state_dict": whole}, "save that entry on its own"),
        (list(whole.values()), "but a list"), ({3: testing.zeros(2)}, "the entry 3"),
        ({**whole, "A.weight": testing.zeros(H, H, device="meta")}, "A.weight is .*meta"),
        ({**whole, "A.weight": testing.eye(H).to_sparse()}, "A.weight is sparse"),
        ({**whole, "A.weight": torch.quantize_per_tensor(testing.eye(H), 0.1, 0, torch.qint8)}, "A.weight is quantised"),
        ({**whole, "A.weight": testing.eye(H, dtype=torch.complex64)}, "A.weight is complex"),
    ):  # fmt: skip
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=words):
            read_tensors(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        read_tensors(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="not a file"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype, tmp_path):
    inner, head = monotone()
    torch.save({name: part.to(dtype) for name, part in (inner | head).items()}, tmp_path / "a.pt")
    found = read_dense(tmp_path / "a.pt", "locuslab-mondeq", m=1.0)
    assert torch.equal(found.weight, inner["U.weight"].to(dtype).double())
    importing(tmp_path / "a.pt", "locuslab-mondeq", tmp_path / "run", limit=5)


def test_the_error_is_measured_on_as_many_images_as_asked_for(tmp_path, capsys):
    inner, head = monotone()
    torch.save(inner | head, tmp_path / "a.pt")
    out = tmp_path / "run"
    base = ["import", str(tmp_path / "a.pt"), "--data", "digits", "--out", str(out), "--json"]
    assert command([*base, "--limit", "7"]) == 0
    error = json.loads(capsys.readouterr().out)["test_error"]
    _, images, model = load_image_run(out)
    assert error == pytest.approx(float((model(images.test_x[:7]).argmax(1) != images.test_y[:7]).double().mean()))
    assert command([*base, "--limit", "0"]) == 2
    assert "limit=0" in capsys.readouterr().err
    assert len(load_images("digits").test_x) > 7


def test_a_stride_is_for_convolutions(tmp_path):
    inner, head = monotone()
    torch.save(inner | head, tmp_path / "a.pt")
    with pytest.raises(wp.InputError, match="no convolutions"):
        importing(tmp_path / "a.pt", "locuslab-mondeq", tmp_path / "run", stride=2)
    with pytest.raises(wp.InputError, match="stride=0"):
        importing(tmp_path / "a.pt", "locuslab-mondeq-conv", tmp_path / "run", stride=0)


@pytest.mark.parametrize(("side", "words"), [((3, 5), "square kernel"), ((4, 4), "odd numbers of taps")])
def test_kernels_of_other_shapes_are_refused(side, words, tmp_path):
    t = {
        "A.weight": testing.ones(2, 2, *side),
        "B.weight": testing.ones(2, 2, *side),
        "U.weight": testing.ones(2, 1, 3, 3),
    }
    t |= {"U.bias": testing.ones(2), "g": testing.tensor(1.0), "h": testing.tensor(1.0)}
    t |= {"Wout.weight": testing.ones(10, 8), "Wout.bias": testing.ones(10)}
    torch.save(t, tmp_path / "a.pt")
    for layout in ("locuslab-mondeq-conv", "lben-conv"):
        with pytest.raises(CheckpointError, match=words):
            read_published(tmp_path / "a.pt", layout, m=1.0)


def matlab_file(path):
    inner, head = monotone()
    named = {"U": "U.weight", "u": "U.bias", "A": "A.weight", "B": "B.weight", "C": "Wout.weight", "c": "Wout.bias"}
    tensors = inner | head
    arrays = {key: tensors[name].reshape(len(tensors[name]), -1) for key, name in named.items()}
    scipy.io.savemat(path, {name: array.numpy() for name, array in arrays.items()})
    return {name: array.double() for name, array in arrays.items()}


def test_no_code_beside_a_matlab_file_is_run(tmp_path, monkeypatch):
    """Modules beside the file, in the current folder or named by the environment do not stand in for those of the reader."""
    expected = matlab_file(tmp_path / "a.mat")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (tmp_path, elsewhere):
        for module in ("numpy", "scipy", "io", "resource", "sitecustomize", "usercustomize", "zipfile"):
            (folder / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({module!r})\n")
        (folder / "scipy").mkdir()
        (folder / "scipy" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('package')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    monkeypatch.setenv("PYTHONSTARTUP", str(elsewhere / "numpy.py"))
    monkeypatch.setenv("PYTHONUSERBASE", str(elsewhere))
    found = read_tensors(Path("a.mat"))
    assert not (tmp_path / "ran").exists()
    for name, array in expected.items():
        torch.testing.assert_close(found[name], array, rtol=0.0, atol=0.0)


def test_matlab_files_have_limits(tmp_path, monkeypatch):
    matlab_file(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "sparse.mat", {"A": scipy.sparse.eye(3).tocsc()})
    scipy.io.savemat(tmp_path / "cell.mat", {"A": np.array([1, "a"], dtype=object)})
    for name in ("sparse.mat", "cell.mat"):
        with pytest.raises(CheckpointError, match="not a readable .mat file of matrices"):
            read_tensors(tmp_path / name)
    monkeypatch.setattr(matlab, "_LARGEST_FILE", 100)
    with pytest.raises(CheckpointError, match="bytes"):
        read_tensors(tmp_path / "a.mat")
    monkeypatch.undo()
    monkeypatch.setattr(matlab, "_SECONDS", 0.001)
    with pytest.raises(CheckpointError, match="took more than"):
        read_tensors(tmp_path / "a.mat")
    monkeypatch.undo()
    scipy.io.savemat(tmp_path / "bomb.mat", {"A": np.zeros((9000, 9000))}, do_compression=True)
    assert (tmp_path / "bomb.mat").stat().st_size < 2**20
    monkeypatch.setattr(matlab, "_MEMORY", 2**29)
    with pytest.raises(CheckpointError, match=r"\.mat"):
        read_tensors(tmp_path / "bomb.mat")
