"""Users' own data, from a file to a certified table: tables, archives, folders of images; and what is unusable."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

import wellposed as wp
from harness.mnist_layout import idx, write_images
from wellposed import testing
from wellposed.cli.main import run
from wellposed.data import Classification, Regression, from_arrays, load_file, load_images
from wellposed.data.own.reading import load_to_evaluate
from wellposed.errors import DataError, InputError, OwnFileWarning
from wellposed.experiments.results import read_attacked, read_certified
from wellposed.training.about import about_run
from wellposed.training.run import load_run

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]
datasets = pytest.importorskip("sklearn.datasets")

QUICK = ["--epochs", "15", "--width", "8", "--m", "1", "--learning-rate", "0.03", "--batch-size", "16"]


def written(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def wine(folder, *, named=True):
    found = datasets.load_wine()
    rows = [
        [*map(float, x), found.target_names[y] if named else int(y) + 1]
        for x, y in zip(found.data, found.target, strict=True)
    ]
    return written(folder / "wine.csv", [*found.feature_names, "cultivar"], rows)


def cancer(path, **changes):
    found = datasets.load_breast_cancer()
    arrays = {
        "x_train": found.data[:400],
        "y_train": found.target[:400],
        "x_test": found.data[400:],
        "y_test": found.target[400:],
    }
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return path


def output_of(capsys, arguments, code=0):
    capsys.readouterr()
    assert run([*map(str, arguments)]) == code
    return capsys.readouterr()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    file = wine(folder)
    assert (
        run(
            [
                "train",
                "mondeq",
                "--data",
                str(file),
                "--target",
                "cultivar",
                "--out",
                str(folder / "run"),
                "--json",
                *QUICK,
            ]
        )
        == 0
    )
    return file, folder / "run"


def test_a_table_from_file_to_certified_table(trained, capsys):
    _, folder = trained
    out = output_of(capsys, ["certify", folder]).out
    assert "the columns' own units in wine.csv" in out and "36 of 178 samples were split off with seed 0" in out
    certified = read_certified(folder)
    assert certified.test_error < 0.2 and certified.unfiled == "" and len(certified.best) == 36
    assert about_run(folder).classes == ["class_0", "class_1", "class_2"]
    # The constant is about inputs as they stand in the file: an independent finite difference stays below it.
    _, data, model = load_run(folder)
    x = torch.from_numpy(datasets.load_wine().data).float()
    assert set(map(tuple, data.test_x.tolist())) <= set(map(tuple, x.tolist()))
    least = int(np.argmin(data.std))
    moved = data.test_x.clone()
    moved[:, least] += 0.01
    with torch.no_grad():
        slopes = (model(moved) - model(data.test_x)).norm(dim=1) / 0.01
    assert 0.01 * certified.lipschitz < slopes.max().item() <= 1.001 * certified.lipschitz
    assert "holds" in output_of(capsys, ["verify", folder / "certificate.json", folder / "model.onnx"]).out


def test_tables_are_attacked_within_the_range_of_their_columns(trained, capsys):
    _, folder = trained
    run(["certify", str(folder)])
    out = output_of(capsys, ["attack", folder, "--eps", "0.2", "1", "3", "--steps", "10"]).out
    assert "attacked" in out and "own units" in out
    attacked, certified = read_attacked(folder), read_certified(folder)
    assert any(
        0.0 < distance < float("inf") for distance in attacked.distances
    )  # it finds something: the box is no [0, 1]
    assert all(d > r or d == 0.0 for r, d in zip(certified.best, attacked.distances, strict=True))
    for command in (["certify"], ["attack", "--eps", "1", "--steps", "2"]):
        assert "own units in wine.csv" in output_of(capsys, [*command[:1], folder, *command[1:], "--norm", "linf"]).out
    assert "AutoAttack is for images" in output_of(capsys, ["attack", folder, "--auto"], 2).err
    page = output_of(capsys, ["report", folder])
    assert "own units" in (folder / "report.html").read_text(encoding="utf-8") and page.err == ""
    assert output_of(capsys, ["compare", folder, folder]).out.count("(the columns' own units in wine.csv, ratio") == 2


def test_attacks_stay_in_the_box():
    from wellposed.attacks import adversarial_distances

    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.0, -5.0]))
    x, labels = torch.tensor([[1.0, 100.0], [4.0, 100.0]]), torch.tensor([0, 0])
    far = adversarial_distances(
        model, x, labels, (3.0, 6.0), box=(torch.tensor([0.0, 0.0]), torch.tensor([9.0, 200.0]))
    )[0]
    assert far.tolist() == pytest.approx([4.0, 1.0], rel=0.1)  # the plane x₀ = 5
    box = torch.tensor([0.0, 0.0]), torch.tensor([4.5, 200.0])
    assert adversarial_distances(model, x, labels, (3.0, 6.0), box=box)[0].tolist() == [float("inf")] * 2
    with pytest.raises(wp.InputError, match="must lie in"):
        adversarial_distances(model, x, labels, (1.0,), box=(torch.zeros(2), torch.ones(2)))


def test_a_moved_a_changed_and_another_file(trained, tmp_path, capsys):
    file, folder = trained
    copy = tmp_path / "run"
    run(["certify", str(folder)])
    shutil.copytree(folder, copy)
    config = (copy / "config.toml").read_text(encoding="utf-8").partition("\n")[2]
    (copy / "config.toml").write_text(config.replace(str(file), str(tmp_path / "gone.csv")), encoding="utf-8")
    for command in ("certify", "attack", "export", "report"):
        told = output_of(capsys, [command, copy], 2).err
        assert "gone.csv: the data of" in told and told.count("\n") == 1, command
    assert "test error" in output_of(capsys, ["certify", copy, "--data", file]).out
    moved = tmp_path / "elsewhere.csv"
    moved.write_bytes(file.read_bytes())
    assert "certified" in output_of(capsys, ["certify", copy, "--data", moved]).out
    lines = file.read_text(encoding="utf-8").splitlines()
    moved.write_text("\n".join(lines[:60]) + "\n", encoding="utf-8")
    assert "another SHA-256" in output_of(capsys, ["attack", copy, "--data", moved], 2).err
    (copy / "config.toml").write_text(config, encoding="utf-8")
    out = output_of(capsys, ["certify", copy, "--data", moved]).out
    assert "elsewhere.csv" in out and (copy / "certified-elsewhere.json").exists()
    assert "on all 59 samples" in out
    assert len(json.loads((copy / "certified-elsewhere.json").read_text())["radii"]["pairs"]) == 59


def test_an_archive_by_regression_and_another_family(tmp_path, capsys):
    found = datasets.load_diabetes()
    np.savez(tmp_path / "d.npz", x_train=found.data[:300], y_train=found.target[:300] / 100.0)
    options = ["--task", "regression", "--epochs", "4", "--width", "6", "--out", tmp_path / "r", "--patience", "2"]
    text = output_of(capsys, ["train", "lben", "--data", tmp_path / "d.npz", *options]).out
    assert "root mean squared error" in text and "60 of 300" in text
    text = output_of(capsys, ["certify", tmp_path / "r"]).out
    assert "slope (l2) at most" in text and "own units in" in text and "60 of 300" in text
    assert "slope at most" in output_of(capsys, ["compare", tmp_path / "r"]).out


def test_a_table_whose_column_is_estimated(tmp_path):
    rows = [[0.5 * i, float(i % 7), 2.0 * i] for i in range(40)]
    path = written(tmp_path / "t.csv", ["a", "b", "y"], rows)
    data = load_file(str(path), target="y", task="regression")
    assert data.name == load_file(path, target="y", task="regression").name == "t.csv"
    assert data.task == Regression(1) and data.shape == (2,) and len(data.train_y) == 32 and len(data.test_y) == 8
    assert torch.allclose(torch.cat([data.train_y, data.test_y]).sum(), torch.tensor(2.0 * 780.0))
    assert data.mean == pytest.approx(data.train_x.double().mean(0).tolist())
    assert data.std == pytest.approx(data.train_x.double().std(0, correction=0).tolist())


@pytest.mark.parametrize("shape", [(60, 6, 6), (60, 1, 6, 6), (60, 6, 6, 3), (60, 3, 6, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_of_every_layout(shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    given = x if dtype == np.uint8 else (x / 255.0).astype(dtype)
    data = from_arrays({"x_train": given, "y_train": np.arange(60) % 2})
    channels = 3 if 3 in shape else 1
    assert data.shape == (channels, 6, 6) and data.task == Classification(2) and data.inputs == "images"
    first = x.transpose(0, 3, 1, 2) if shape[-1] == 3 else x.reshape(60, channels, 6, 6)
    every = {tuple(row) for row in torch.cat([data.train_x, data.test_x]).flatten(1).mul(255).round().int().tolist()}
    assert every == {tuple(row) for row in first.reshape(60, -1).tolist()}


def test_the_split_keeps_the_shares_of_classes_and_is_the_same_every_time():
    y = np.array([0] * 50 + [1] * 10)
    x = np.random.default_rng(1).normal(size=(60, 2))
    data, again = (from_arrays({"x_train": x, "y_train": y}) for _ in range(2))
    assert torch.bincount(data.test_y).tolist() == [10, 2] and torch.equal(data.test_x, again.test_x)
    assert not set(map(tuple, data.test_x.tolist())) & set(map(tuple, data.train_x.tolist()))


def test_parts_that_are_given_are_kept(tmp_path, capsys):
    found = datasets.load_digits()
    parts = {"train": slice(0, 300), "validation": slice(300, 400), "test": slice(400, 500)}
    arrays = {f"x_{part}": (found.images[rows] / 16.0) for part, rows in parts.items()}
    arrays |= {f"y_{part}": found.target[rows] for part, rows in parts.items()}
    np.savez(tmp_path / "digits.npz", **arrays)
    options = ["--data", tmp_path / "digits.npz", "--out", tmp_path / "run", "--json", *QUICK]
    output_of(capsys, ["train", "mondeq", *options])
    _, data, _ = load_run(tmp_path / "run")
    assert [len(data.labels_of(part)) for part in ("train", "validation", "test")] == [300, 100, 100]
    assert "pixel units" in output_of(capsys, ["certify", tmp_path / "run", "--limit", "30"]).out
    assert (
        "images" in output_of(capsys, ["attack", tmp_path / "run", "--limit", "10", "--steps", "3", "--eps", "0.1"]).out
    )
    assert run(["report", str(tmp_path / "run")]) == 0


def test_a_folder_of_images(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for shade, name in ((40, "dark"), (200, "light")):
            (tmp_path / "pics" / part / name).mkdir(parents=True)
            for number in range(12):
                pixels = (shade + rng.integers(-30, 30, (5, 4))).astype(np.uint8)
                image.fromarray(pixels).save(tmp_path / "pics" / part / name / f"{number}.png")
    options = ["--data", tmp_path / "pics", "--out", tmp_path / "run", *QUICK]
    assert "100.00 %" in output_of(capsys, ["train", "mondeq", *options]).out
    _, data, _ = load_run(tmp_path / "run")
    assert (
        data.shape == (1, 5, 4) and len(data.test_y) == 24 and about_run(tmp_path / "run").classes == ["dark", "light"]
    )
    shutil.copytree(tmp_path / "pics" / "test", tmp_path / "later" / "test")
    (tmp_path / "later" / "test" / "dark" / "._0.png").write_bytes(b"what other systems leave beside images")
    later = load_to_evaluate(tmp_path / "later", classes=2, names=("dark", "light"))
    assert len(later.y) == 24 and not later.remarks
    with pytest.raises(DataError, match="later: has no folder train"):
        load_file(tmp_path / "later")
    assert load_file(tmp_path / "pics" / "train").source.remarks  # without parts, some samples are split off
    image.fromarray(np.zeros((5, 5), dtype=np.uint8)).save(tmp_path / "pics" / "test" / "dark" / "z.png")
    with pytest.raises(DataError, match="z.png: is 5×5 pixels, .* 4×5"):
        load_file(tmp_path / "pics")
    image.fromarray(np.arange(20, dtype=np.uint16).reshape(5, 4) * 3000).save(tmp_path / "pics/test/dark/z.png")
    with pytest.raises(DataError, match="z.png: has pixels of mode 'I;16'"):
        load_file(tmp_path / "pics")
    image.fromarray(np.zeros((5, 4, 4), dtype=np.uint8)).save(tmp_path / "pics/test/dark/z.png")  # with transparency
    with pytest.raises(DataError, match="z.png: has pixels of mode 'RGBA'"):
        load_file(tmp_path / "pics")
    (tmp_path / "pics" / "Test").mkdir()
    with pytest.raises(DataError, match="Test: beside train there may be"):
        load_file(tmp_path / "pics")
    (tmp_path / "pics" / "Test").rename(tmp_path / "pics" / "train" / ".hidden")  # which is no class
    (tmp_path / "pics" / "test" / "dark" / "z.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="z.png: not a readable image"):
        load_file(tmp_path / "pics")
    assert "another SHA-256" in output_of(capsys, ["certify", tmp_path / "run"], 2).err


NAN = np.ones((400, 30))
NAN[3, 4] = np.nan
BAD_ARCHIVES = {
    "no_targets": ({"y_train": None}, "has no array y_train"),
    "no_training": ({"x_train": None, "y_train": None}, "has no training part; needs x_train and y_train"),
    "no_inputs": ({"x_test": None}, "has no array x_test"),
    "unknown": ({"images": np.ones(3)}, "has an array 'images'"),
    "lengths": ({"y_train": np.zeros(399, int)}, "y_train: has 399 targets for the 400 samples"),
    "nan": ({"x_train": NAN}, "x_train: has NaN or infinite numbers.*first in sample 3"),
    "huge": ({"x_train": np.full((400, 30), 1e300)}, "x_train: has NaN or infinite"),
    "no_zero": ({"y_train": np.arange(400) % 2 + 1}, "y_train: has labels up to 2, but none is 0"),
    "negative": ({"y_train": np.arange(400) % 2 - 1}, "y_train: has the label -1"),
    "one_class": ({"y_train": np.zeros(400, int)}, "y_train: all samples have the class 0"),
    "beyond": ({"y_test": np.full(169, 2)}, "y_test: has the label 2"),
    "floats": ({"y_train": np.linspace(0, 1, 400)}, "y_train: has the dtype float64.*--task regression"),
    "objects": ({"y_train": np.array(["a"] * 400, dtype=object)}, "y_train: is an array of Python objects"),
    "texts": ({"y_train": np.array(["a"] * 400)}, "y_train: has the dtype <U1; needs numbers"),
    "columns": ({"y_train": np.zeros((400, 2), int)}, r"y_train: has shape \(400, 2\)"),
    "vector": ({"x_train": np.ones(400)}, r"x_train: has shape \(400,\)"),
    "five": ({"x_train": np.ones((400, 1, 1, 1, 1))}, "x_train: has shape"),
    "other_features": ({"x_test": np.ones((169, 29))}, r"x_test: one input has shape \(29,\)"),
    "empty": ({"x_train": np.ones((0, 30))}, "x_train: has shape"),
    "pixels": ({"x_train": np.full((400, 5, 6), 2.0)}, r"x_train: spans \[2, 2\]; images need floats in \[0, 1\]"),
    "masks": (
        {"x_train": np.eye(5, 6, dtype=np.uint8)[None].repeat(400, 0)},
        "x_train: has no pixels but 0 and 1 of 255; multiply",
    ),
    "int_pixels": ({"x_train": np.full((400, 5, 6), 2)}, "x_train: has the dtype int64; images need uint8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_unusable_archives(case, tmp_path, capsys):
    changes, words = BAD_ARCHIVES[case]
    file = cancer(tmp_path / "bad.npz", **changes)
    with pytest.raises(DataError, match=f"bad.npz: {words}"):
        load_file(file)
    if case in ("nan", "objects"):
        err = output_of(capsys, ["train", "mondeq", "--data", file, "--out", tmp_path / "run"], 2).err
        assert err.startswith(f"wellposed: {file}") and err.count("\n") == 1


def test_a_file_that_is_no_archive_is_not_to_be_unpickled(tmp_path):
    (tmp_path / "words.npz").write_text("hello")
    with pytest.raises(DataError, match="words.npz: not a readable .npz archive .*; write it again") as raised:
        load_file(tmp_path / "words.npz")
    assert "pickle" not in str(raised.value)


def test_a_share_of_no_samples_is_refused_with_a_mend(tmp_path):
    (tmp_path / "five.csv").write_text("a,y\n" + "".join(f"{row},{row % 2}\n" for row in range(5)))
    with pytest.raises(InputError, match=r"validation=0.1: is 0 of 4 training vectors; give another share, or 0"):
        load_file(tmp_path / "five.csv", target="y").divided(0.1)


BAD_TABLES = {
    "text": ("a,y\n1,u\nx,v\n", "line 3, column 'a': 'x' is no number; .*leave it out of the file, or write"),
    "later": ('a,y\n\n"1",u\n2,"v\nw"\n\nx,v\n', "line 7, column 'a': 'x' is no number"),  # as editors count lines
    "nan": ("a,y\n1,u\nnan,v\n", "line 3, column 'a': 'nan' is not finite; fill it in, or leave the row out"),
    "large": ("a,y\n1,u\n1e39,v\n", "line 3, column 'a': '1e39' is too large for float32; "),
    "hole": ("a,y\n1,u\n,v\n", "line 3, column 'a': is empty; fill it in, or leave the row out"),
    "no_class": ("a,y\n1,u\n2,\n", "line 3, column 'y': has no class; fill it in, or leave the row out"),
    "short": ("a,y\n1,u\n2\n", "line 3 has 1 entries, the header 2; fill it up, and put texts with commas into quotation marks"),
    "twice": ("a,a,y\n1,2,u\n", "two columns have the name 'a'; rename one"),
    "empty": ("a,y\n", "has one line only; needs a header and at least one row"),
    "nothing": ("", "has no lines; needs a header and at least one row"),
    "no_header": ("1,2,3\n4,5,6\n", "line 1 has numbers, 1, 2, 3, …, and no names of columns; put a line with the names"),
    "no_header_twice": ("1,1,3\n4,5,6\n", "line 1 has numbers, 1, 1, 3, …, and no names of columns; put a line with the names"),
    "latin": ("a,y\n1,caf\xe9\n", "not in UTF-8 .*byte 9.*; convert it, from Latin-1 by `iconv -f latin1 -t utf-8 bad.csv > "),
    "utf_16": ("\xff\xfea\x00,\x00y\x00", "not in UTF-8 .*; convert it, from UTF-16 by `iconv -f utf-16 -t utf-8 bad.csv > "),
    "open_quote": ('a,y\n1,u\n2,"v\n3,u\n4,v\n', "line 3 begins no readable row of CSV .*; mend quotation marks there, or"),
    "after_quote": ('a,y\n1,u\n2,"v"w\n3,u\n', "line 3 begins no readable row of CSV .*; mend quotation marks there, or"),
    "faint": ("a,b,y\n" + "1,1e-40,u\n2,2e-40,v\n" * 5, "column 'b': varies by 5e-41 only, too little for float32; write it in"),
    "alone": ("y\nu\nv\n", "has no column besides 'y'; needs one with numbers at least"),
    "fractions": ("a,y\n1,0.5\n2,1.5\n", "column 'y' has numbers that are not whole.*--task regression"),
    "several_ways": ("a,y\n1,1\n2,1.0\n3,0\n", "column 'y' writes the same class in several ways"),
    "one_class": ("a,y\n1,u\n2,u\n", "column 'y': all samples have the class u; add samples of another one"),
    "few": ("a,y\n1,u\n2,v\n", "2 samples are too few to split a test part off; needs 5 at least: add rows$"),
    "tiny": ("a,y\n" + "1,u\n" * 7 + "2,v\n", "column 'y': has too few samples of the class v, 1, to .*: add rows$"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_unusable_tables(case, tmp_path):
    text, words = BAD_TABLES[case]
    (tmp_path / "bad.csv").write_text(text, encoding="latin-1", newline="")
    with pytest.raises(DataError, match=f"bad.csv: {words}"):
        load_file(tmp_path / "bad.csv", target="y")


def test_columns_of_another_table_are_taken_by_their_names(tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 2))
    lines = [f"{a},{b},{int(a > 0)}.0" for a, b in rows.tolist()]
    (tmp_path / "first.csv").write_text("\n".join(["a,b,y", *lines]), encoding="utf-8")
    known = load_file(tmp_path / "first.csv", target="y").source
    assert known.columns == ("a", "b") and known.classes == ("0.0", "1.0")
    turned = [f"{b},{int(a > 0)}.0,{a}" for a, b in rows.tolist()]
    (tmp_path / "turned.csv").write_text("\n".join(["b,y,a", *turned]), encoding="utf-8")
    more = {"classes": 2, "target": "y", "names": known.classes}
    found = load_to_evaluate(tmp_path / "turned.csv", columns=known.columns, **more)
    torch.testing.assert_close(found.x, testing.tensor(rows, dtype=found.x.dtype))
    (tmp_path / "other.csv").write_text("\n".join(["b,y,c", *turned]), encoding="utf-8")
    with pytest.raises(DataError, match="has the columns b, c; the network takes a, b"):
        load_to_evaluate(tmp_path / "other.csv", columns=known.columns, **more)
    assert "taken in their order" in load_to_evaluate(tmp_path / "turned.csv", **more).remarks[-1]


def test_arguments_that_do_not_fit(tmp_path, capsys):
    file = wine(tmp_path, named=False)
    assert load_file(file, target="cultivar").source.classes == ("1", "2", "3")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["--data", file], "needs --target, one of its columns"),
        (["--data", file, "--target", "cultivars"], "Did you mean 'cultivar'"),
        (["--data", tmp_path / "none.npz"], "none.npz: not found"),
        (["--data", tmp_path / "empty"], "has no sub-folders"),
        (["--data", "digits", "--target", "y"], "is a column of a table of your own"),
        (["--data", "digits", "--task", "regression"], "this is for data of your own"),
        (["--data", file, "--target", "cultivar", "--box-radius", "0.1"], "box_radius"),
        (["--data", file, "--target", "cultivar", "--augment"], "is for images"),
        (["--data", file, "--target", "cultivar", "--patience", "2", "--validation", "0"], "needs validation samples"),
        (["--data", cancer(tmp_path / "c.npz"), "--target", "y"], "is a column of a table"),
    ):
        err = output_of(capsys, ["train", "nemon", *arguments, "--out", tmp_path / "run"], 2).err
        assert words in err and err.count("\n") == 1, arguments
    (tmp_path / "torn.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:500])
    with pytest.raises(DataError, match="torn.npz: not a readable .npz archive"):
        load_file(tmp_path / "torn.npz")
    err = output_of(
        capsys, ["train", "nemon-conv", "--data", file, "--target", "cultivar", "--out", tmp_path / "r"], 2
    ).err
    assert "has vectors, and nemon-conv takes images" in err


def test_own_images_in_the_layout_of_mnist(tmp_path):
    folder = write_images(tmp_path, {"train": 30, "t10k": 10}, (7, 6))
    with pytest.warns(OwnFileWarning, match="train-images.*another file.*SHA-256 [0-9a-f]{64}"):
        data = load_images("mnist", tmp_path)
    assert data.shape == (1, 7, 6) and data.train_y.tolist() == [*range(10)] * 3
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(9)))
    with pytest.warns(OwnFileWarning), pytest.raises(DataError, match=r"t10k-labels.*has shape \(9,\) for 10 images"):
        load_images("mnist", tmp_path)


def test_training_stops_early_on_the_validation_samples(tmp_path, capsys):
    options = ["--data", wine(tmp_path), "--target", "cultivar", "--json", *QUICK, "--epochs", "40", "--patience", "3"]
    told = json.loads(output_of(capsys, ["train", "mondeq", *options, "--out", tmp_path / "run"]).out)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    epochs = [int(row.split(",")[0]) for row in rows[1:]]
    assert max(epochs) + 1 < 40 and told["epoch"] <= max(epochs) + 1


def test_loggers_by_name(tmp_path, capsys):
    from wellposed.training.folder import RunFolder
    from wellposed.training.trainer import loggers_named

    assert len(loggers_named("csv", RunFolder(tmp_path))) == 1
    with pytest.raises(wp.InputError, match="logger='wandb'"):
        loggers_named("wandb", RunFolder(tmp_path))
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(wp.WellposedError, match=r"wellposed\[tensorboard\]"):
            loggers_named("tensorboard", RunFolder(tmp_path))
    else:
        assert len(loggers_named("tensorboard", RunFolder(tmp_path))) == 2
