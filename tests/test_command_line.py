"""The command as a user calls it, on the embedded digits."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import wellposed as wp
from harness.results import unseal_config, unsealed
from wellposed import testing
from wellposed.cli.main import run
from wellposed.data import load_images
from wellposed.training.folder import RunFolder, read_metrics

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]

QUICK = ["--epochs", "6", "--width", "12", "--m", "1.0", "--learning-rate", "0.02", "--batch-size", "64"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run(["train", "mondeq", "--data", "digits", "--out", str(folder), "--json", *QUICK]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(trained):
    assert run(["certify", str(trained), "--limit", "60"]) == 0
    assert run(["attack", str(trained), "--limit", "60", "--steps", "10"]) == 0
    return trained


def output_of(capsys, arguments, code=0):
    capsys.readouterr()
    assert run(arguments) == code
    return capsys.readouterr()


def test_help_names_every_command(capsys):
    text = output_of(capsys, ["--help"]).out
    for command in ("train", "certify", "attack", "compare", "report"):
        assert f"  {command} " in text
    assert "Exit codes" in text
    assert "families: mondeq" in output_of(capsys, ["train", "--help"]).out
    assert output_of(capsys, ["--version"]).out.startswith("wellposed ")


@pytest.mark.parametrize("module", ["wellposed", "wellposed.cli", "wellposed.cli.main"])
def test_modules_run_as_the_command(module):
    done = subprocess.run([sys.executable, "-m", module, "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "command='nothing'" in done.stderr


def test_help_of_a_command_explains_its_options(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["train", "mondeq", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "Strong-monotonicity constant" in text
    assert "--data-root" in text


def test_a_run_is_a_folder(finished, capsys):
    folder = RunFolder(finished)
    assert 'name = "mondeq"' in folder.config.read_text()
    assert json.loads(folder.environment.read_text())["torch"] == torch.__version__
    text = output_of(capsys, ["report", str(finished), "--eps", "0.05", "0.2"]).out
    assert "certified" in text
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "best diagonal metric" in page
    attacked = (finished / "attacked.json").exists()
    assert ("this was checked input by input" in page) == attacked == ("Nothing has" not in page)
    assert page.count("data:image/svg+xml;base64,") >= 3
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing from outside
    for name in ("robustness", "training", "convergence"):
        assert (finished / "plots" / f"{name}.png").stat().st_size > 5000
        assert (finished / "plots" / f"{name}.svg").stat().st_size > 5000
    for file in (folder.weights, folder.model, folder.certificate, folder.certified, folder.attacked, folder.metrics):
        assert file.stat().st_size > 0
    assert "holds" in output_of(capsys, ["verify", str(folder.certificate), str(folder.model)]).out
    assert "holds" in output_of(capsys, ["verify", str(folder.certificate), str(folder.weights)]).out


def test_figures_stay_where_no_certificate_file_can_be_written(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    options = ["--data", "digits", "--epochs", "1", "--width", "6", "--sharpness", "3.0"]
    output_of(capsys, ["train", "pcdeq1", *options, "--out", str(folder.path), "--json"])
    told = output_of(capsys, ["certify", str(folder.path), "--limit", "20", "--json"])
    (line,) = (line for line in told.err.splitlines() if "no certificate file was written" in line)
    assert "no form in deployed files" in line and json.loads(told.out)["lipschitz"] > 0.0
    assert folder.certified.exists() and not folder.certificate.exists()
    output_of(capsys, ["report", str(folder.path)])
    assert "No certificate file was written" in (folder.path / "report.html").read_text(encoding="utf-8")


def test_certified_never_exceeds_attacked_and_rules_are_ordered(finished, capsys):
    result = json.loads(output_of(capsys, ["compare", str(finished), "--json", "--eps", "0.02", "0.1", "0.3"]).out)[0]
    assert result["samples"] == 60
    assert result["lower_bound"] <= result["lipschitz"]
    for row in result["rows"]:
        assert row["paper"] <= row["certified"] <= row["attacked"] <= row["clean"]
    assert result["rows"][0]["certified"] > 0.5


def test_a_contradiction_between_attack_and_certificate_is_an_error(finished, capsys):
    folder = RunFolder(finished)
    kept = folder.attacked.read_text()
    content = unsealed(folder.attacked)
    content["distances"] = [1e-6] * len(content["distances"])
    folder.attacked.write_text(json.dumps(content))
    try:
        assert "the certificate is wrong" in output_of(capsys, ["compare", str(finished)], code=1).err
    finally:
        folder.attacked.write_text(kept)


def test_training_is_reproducible_and_resumable(tmp_path, capsys):
    options = ["train", "mondeq", "--data", "digits", "--json", *QUICK]
    once = json.loads(output_of(capsys, [*options, "--out", str(tmp_path / "a")]).out)
    again = json.loads(output_of(capsys, [*options, "--out", str(tmp_path / "b")]).out)
    assert once["test/accuracy"] == again["test/accuracy"]
    assert once["test/loss"] == again["test/loss"]
    assert once["test/accuracy"] > 0.7
    assert "nothing to resume from" in output_of(capsys, [*options, "--out", str(tmp_path / "c"), "--resume"], 2).err
    changed = [*options, "--out", str(tmp_path / "a"), "--resume", "--seed", "7"]
    assert "differ from those of the run" in output_of(capsys, changed, 2).err


def start_long_training(folder: Path) -> subprocess.Popen:
    """A training process that has written at least one checkpoint."""
    options = ["train", "mondeq", "--data", "digits", "--epochs", "2000", "--width", "12", "--out", str(folder)]
    process = subprocess.Popen(
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by whatever runs in the background
        args=[sys.executable, "-c", "from wellposed.cli.main import main; main()", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not RunFolder(folder).checkpoint.exists():
        assert time.monotonic() < deadline, "no checkpoint appeared"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    return process


def test_interrupt_keeps_the_last_checkpoint(tmp_path):
    process = start_long_training(tmp_path / "run")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert torch.load(RunFolder(tmp_path / "run").checkpoint, weights_only=False)["epoch"] >= 0


def test_kill_in_the_middle_of_a_checkpoint_leaves_the_earlier_one(tmp_path, capsys):
    folder = tmp_path / "run"
    process = start_long_training(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    checkpoint = RunFolder(folder).checkpoint
    # What a kill between the first and the last byte leaves behind:
    Path(f"{checkpoint}.part").write_bytes(checkpoint.read_bytes()[:1000])
    epoch = torch.load(checkpoint, weights_only=False)["epoch"]
    config = RunFolder(folder).config
    unseal_config(config)
    shortened = re.sub(r"epochs = \d+", f"epochs = {epoch + 3}", config.read_text())
    config.write_text(shortened)
    options = ["--data", "digits", "--epochs", str(epoch + 3), "--width", "12", "--resume", "--json"]
    output_of(capsys, ["train", "mondeq", *options, "--out", str(folder)])
    epochs = [row["epoch"] for row in read_metrics(folder)]
    assert epochs[-1] == epoch + 2
    assert epochs == sorted(set(epochs))
    assert RunFolder(folder).weights.exists()


def test_truncated_checkpoint_is_named(trained, tmp_path, capsys):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    checkpoint = RunFolder(folder).checkpoint
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    options = ["train", "mondeq", "--data", "digits", *QUICK, "--out", str(folder), "--resume"]
    assert "truncated or corrupt" in output_of(capsys, options, 2).err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["certfy", "x"], 2, "Did you mean 'certify'"),
        (["train", "mondqe"], 2, "Did you mean 'mondeq'"),
        (["train", "mondeq", "--data", "mnits"], 2, "Did you mean 'mnist'"),
        (["train", "mondeq", "--m", "0"], 2, "must be positive"),
        (["train", "mondeq", "--activation", "gelu", "--epochs", "1"], 2, "slopes within"),
        (["train", "mondeq", "--preset", "digit"], 2, "Did you mean 'digits'"),
        (["train", "mondeq", "--epochs", "0"], 2, "must be at least 1"),
        (["train", "mondeq", "--widht", "3"], 2, "--width"),
        (["certify", "/nonexistent"], 2, "not a run folder"),
        (["compare"], 2, "at least one run folder"),
        (["reproduce", "graphs", "--folds", "0"], 2, "folds=0"),
        (["reproduce", "risk", "--draws", "0"], 2, "draws=0"),
    ],
)
def test_bad_arguments(arguments, code, words, capsys):
    capsys.readouterr()
    try:
        found = run(arguments)
    except SystemExit as stop:  # the option parser ends the process itself
        found = stop.code
    text = capsys.readouterr()
    assert found == code
    assert words in re.sub(r"[│\s]+", " ", text.err + text.out)


def test_missing_data_says_what_to_put_where(tmp_path, capsys, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    options = ["train", "mondeq", "--data", "mnist", "--data-root", str(tmp_path), "--out", str(tmp_path / "run")]
    assert "Put the file there" in output_of(capsys, options, 2).err


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs a place nobody can write to")
def test_unwritable_folder(capsys):
    options = ["train", "mondeq", "--data", "digits", *QUICK, "--out", "/proc/nowhere/run"]
    assert "choose another --out" in output_of(capsys, options, 2).err


def test_weights_of_another_kind_are_refused(finished, tmp_path, capsys):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    files = RunFolder(folder)
    good = files.weights.read_bytes()
    torch.save({"a": testing.zeros(3)}, files.weights)
    assert "a pickle" in output_of(capsys, ["certify", str(folder)], 2).err
    files.weights.write_bytes(good[: len(good) // 2])
    assert "not a readable safetensors file" in output_of(capsys, ["certify", str(folder)], 2).err
    files.weights.write_bytes(good)
    unseal_config(files.config)
    files.config.write_text(files.config.read_text().replace("width = 12", "width = 13"))
    assert (
        "its weights are of width=12, and the configuration has width=13"
        in output_of(capsys, ["certify", str(folder)], 2).err
    )
    files.config.write_text("epochs = [")
    assert "not a readable configuration" in output_of(capsys, ["certify", str(folder)], 2).err
    files.weights.unlink()


def test_weights_of_another_shape_are_refused(finished, tmp_path, capsys):
    import shutil

    from safetensors import safe_open
    from safetensors.torch import save_file

    from wellposed.training.checkpoint import FORMAT

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    files = RunFolder(folder)
    with safe_open(files.weights, "pt") as stored:
        header = {"format": FORMAT, "config": stored.metadata()["config"]}  # as before there were digests
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    shapes = {**tensors, "3.bias": testing.zeros(11)}
    save_file(shapes, files.weights, metadata=header)
    assert "of another architecture" in output_of(capsys, ["certify", str(folder)], 2).err
    save_file({**tensors, "3.bias": testing.full((10,), torch.nan)}, files.weights, metadata=header)
    assert "NaN or infinite" in output_of(capsys, ["certify", str(folder)], 2).err
    save_file(tensors, files.weights)
    assert "not written by wellposed" in output_of(capsys, ["certify", str(folder)], 2).err


def test_results_of_other_weights_are_not_shown(finished, tmp_path, capsys):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    other = tmp_path / "other"
    assert run(["train", "mondeq", "--data", "digits", "--out", str(other), "--json", *QUICK, "--seed", "1"]) == 0
    shutil.copy(other / "weights.safetensors", folder / "weights.safetensors")
    assert "about other weights" in output_of(capsys, ["report", str(folder)], 2).err
    assert "about other weights" in output_of(capsys, ["compare", str(folder)], 2).err
    # Training again removes what was about the earlier weights.
    assert run(["train", "mondeq", "--data", "digits", "--out", str(folder), "--json", *QUICK, "--seed", "2"]) == 0
    assert not RunFolder(folder).certified.exists()
    assert not RunFolder(folder).attacked.exists()
    assert len(read_metrics(folder)) == 6


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    from safetensors.torch import load_file

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run(["train", "mondeq", "--data", "digits", "--out", str(whole), "--json", *QUICK]) == 0
    code = (
        "import os\nimport wellposed.training.run as r\nfrom wellposed.training.module import TaskModule as C\n"
        "original = C.on_train_epoch_start\n"
        "def stop(self):\n    if self.current_epoch == 3: os._exit(9)\n    original(self)\n"
        "C.on_train_epoch_start = stop\nfrom wellposed.cli.main import run\n"
        f"run({['train', 'mondeq', '--data', 'digits', '--out', str(halves), '--json', *QUICK]!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 9
    assert run(["train", "mondeq", "--out", str(halves), "--json", "--resume"]) == 0  # settings from the folder
    first, second = (load_file(folder / "weights.safetensors") for folder in (whole, halves))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mondeq", "--threads", "0"], "threads=0"),
        (["train", "mondeq", "--accelerator", "foo", "--out", "OUT"], "accelerator"),
        (["attack", "RUN", "--limit", "0"], "limit=0"),
        (["certify", "RUN", "--limit", "-1"], "limit=-1"),
    ],
)
def test_unusable_values_are_one_clean_line(arguments, message, finished, tmp_path, capsys):
    arguments = [{"RUN": str(finished), "OUT": str(tmp_path / "out")}.get(a, a) for a in arguments]
    found = output_of(capsys, arguments, 2).err
    assert message in found
    assert "Traceback" not in found


def test_a_results_file_without_its_content_is_named(finished, tmp_path, capsys):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    RunFolder(folder).attacked.write_text("{}")
    assert "attacked.json: corrupt" in output_of(capsys, ["report", str(folder)], 2).err


def test_a_header_of_any_length_is_no_pickle(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    from wellposed.training.checkpoint import FORMAT, read_weights

    tensors = load_file(trained / "weights.safetensors")
    for extra in range(0, 260, 8):  # the header's length runs through every first byte that occurs
        path = tmp_path / "weights.safetensors"
        save_file(tensors, path, metadata={"format": FORMAT, "config": "{}", "pad": "x" * extra})
        read_weights(path)
    torch.save({"a": testing.zeros(1)}, path)
    with pytest.raises(wp.WellposedError, match="a pickle"):
        read_weights(path)


def test_runs_are_compared_on_one_page(finished, tmp_path, capsys):
    other = tmp_path / "nothing learned"
    shutil.copytree(finished, other)
    content = unsealed(other / "certified.json")
    commonest = int(load_images("digits").test_y[:60].bincount().max())
    assert content["classes_named"] > 5 and content["majority_error"] == pytest.approx(1 - commonest / 60)
    (other / "certified.json").write_text(json.dumps({**content, "classes_named": 1}))
    (other / "attacked.json").unlink()
    out = tmp_path / "compared"
    arguments = ["compare", str(finished), str(other), "--eps", "0.05", "0.1", "0.3", "--out", str(out)]
    first, *_ = text = output_of(capsys, arguments).out.splitlines()
    assert "certified at 0.1, %" in first and "predictions are constant" in text[2] and "constant" not in text[1]
    rows = json.loads(output_of(capsys, [*arguments, "--json"]).out)
    assert rows[0]["parameters"] == 64 * 12 + 12 + 2 * 12 * 12 + 12 * 10 + 10  # U, b, A, B and the head
    assert 0 < rows[0]["iterations"] < 100
    assert rows[0]["seconds"] == json.loads((finished / "environment.json").read_text())["seconds"]
    assert f"{100 * rows[0]['rows'][1]['certified']:.2f}" in text[1] and rows[1]["rows"][1]["attacked"] is None
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page) and page.count("predictions are constant") == 3
    assert (out / "compare.png").stat().st_size > 5000
    output_of(capsys, ["report", str(other)])
    assert "predictions are constant" in (other / "report.html").read_text(encoding="utf-8")
