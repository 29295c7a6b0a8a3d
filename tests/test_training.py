"""Training: the same as a bare loop, with epochs chosen on validation images and the test set looked at once."""

from __future__ import annotations

import gc
import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.data import Classification, load_images
from wellposed.models.families import MonDEQFamily
from wellposed.numerics.linear_algebra import largest_singular_value
from wellposed.training.best_epoch import BestEpoch
from wellposed.training.config import TrainConfig, presets
from wellposed.training.folder import RunFolder, read_metrics
from wellposed.training.loaders import build_model, load_data, training_batches
from wellposed.training.run import load_image_run, train

pytestmark = pytest.mark.float32

SMALL = TrainConfig(family=MonDEQFamily(width=10), data="digits", epochs=3, batch_size=50, learning_rate=0.02)


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (12, 12), (1, 5)])
def test_spectral_norms_and_their_gradients_against_singular_vectors(shape):
    weight = testing.randn(*shape, generator=testing.generator(0)).requires_grad_()
    value = largest_singular_value(weight)
    value.backward()
    left, sizes, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    assert value.dtype == weight.dtype
    assert value.item() == pytest.approx(sizes[0].item(), rel=1e-6)
    torch.testing.assert_close(weight.grad.double(), torch.outer(left[:, 0], right[0]), rtol=1e-6, atol=1e-6)


def test_the_spectral_norm_of_zero_has_a_finite_gradient():
    weight = testing.zeros(3, 4).requires_grad_()
    largest_singular_value(weight).backward()
    assert torch.isfinite(weight.grad).all()


def test_validation_images_are_a_part_of_the_training_set_and_always_the_same():
    whole = load_images("digits")
    divided, again = whole.divided(0.1), load_images("digits").divided(0.1)
    assert len(divided.validation_y) == 144 and divided.evaluated == ("validation",) and whole.evaluated == ()
    assert torch.equal(divided.validation_x, again.validation_x) and torch.equal(divided.train_x, again.train_x)
    parts = torch.cat([divided.train_x, divided.validation_x]).flatten(1)
    both = torch.cat([parts, torch.cat([divided.train_y, divided.validation_y])[:, None]], 1)
    mine = torch.cat([whole.train_x.flatten(1), whole.train_y[:, None]], 1)
    assert sorted(both.tolist()) == sorted(mine.tolist())
    assert torch.equal(divided.test_x, whole.test_x) and "144 for validation" in repr(divided)
    for share in (1e-5, 0.99999):
        with pytest.raises(wp.InputError, match="training images"):
            whole.divided(share)


def test_settings_from_before_there_was_a_choice_train_on_everything():
    old = {"data": "digits", "family": {"name": "mondeq"}}
    assert TrainConfig.from_dict(old).validation == 0.0
    assert {config.validation for config in presets().values()} == {0.0}
    assert TrainConfig().validation == 0.1
    with pytest.raises(wp.InputError, match="validation=1"):
        TrainConfig(validation=1.0)


def test_stretches_hand_out_every_batch_of_an_epoch_in_order():
    data = load_data(SMALL, None)
    stretches = training_batches(data, SMALL)
    stretches.sampler.set_epoch(1)
    given = [batch for stretch in stretches for batch in stretch]
    order = torch.randperm(len(data.train_y), generator=testing.generator(1))
    assert len(list(stretches)) == len(stretches) < len(given) == stretches.steps
    assert torch.equal(torch.cat([labels for _, labels in given]), data.train_y[order])


def test_a_run_is_a_bare_loop(tmp_path):
    """Two epochs of all steps, schedule and penalty included, against a loop in five lines."""
    import lightning

    family = MonDEQFamily(width=10)
    config = TrainConfig(family, "digits", validation=0.0, epochs=2, learning_rate=0.01, lipschitz_penalty=1e-2)
    found = train(config, tmp_path / "run", accelerator="cpu")
    data = load_data(config, None)
    lightning.seed_everything(config.seed, verbose=False)
    model = build_model(config, data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    steps = -(-len(data.train_y) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=2 * steps)
    for epoch in range(2):
        losses = []
        for rows in torch.randperm(len(data.train_y), generator=testing.generator(epoch)).split(config.batch_size):
            loss = nn.functional.cross_entropy(model(data.train_x[rows]), data.train_y[rows])
            losses += [float(loss.detach())] * len(rows)
            norms = [
                torch.linalg.matrix_norm(part.weight, 2) for part in model.modules() if isinstance(part, nn.Linear)
            ]
            optimizer.zero_grad()
            (loss + config.lipschitz_penalty * torch.stack(norms).prod()).backward()
            optimizer.step()
            schedule.step()
    for name, value in load_file(tmp_path / "run" / "weights.safetensors").items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert found["train/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    rows = read_metrics(tmp_path / "run")
    assert found["epoch"] == 2 and [("test/accuracy" in row) for row in rows] == [False, True]  # looked at once
    assert not any("validation/accuracy" in row for row in rows)


def test_the_best_epoch_is_the_latest_of_equally_good_ones_and_survives_a_checkpoint():
    model = nn.Linear(1, 1)
    best = BestEpoch(model, choose=True, task=Classification(2))
    for epoch, accuracy in enumerate([0.5, 0.8, 0.8, 0.6, 0.7]):
        nn.init.constant_(model.weight, epoch)
        metrics = {"validation/accuracy": torch.tensor(accuracy)}
        best.on_train_epoch_end(SimpleNamespace(callback_metrics=metrics, current_epoch=epoch), None)
        state, best = best.state_dict(), BestEpoch(model, choose=True, task=Classification(2))
        best.load_state_dict(state)
    best.restore()
    assert best.epoch == 2 and model.weight.item() == 2.0 and best.metrics["validation/accuracy"] == pytest.approx(0.8)


def test_a_run_keeps_the_weights_of_its_best_epoch_and_tests_them_once(tmp_path, capsys, monkeypatch):
    shown = iter([0.3, 0.9, 0.2])  # what the three epochs seem to reach
    noted = BestEpoch.on_train_epoch_end

    def pretend(self, trainer, module):
        metrics = {**trainer.callback_metrics, "validation/accuracy": torch.tensor(next(shown))}
        kept.append({name: value.clone() for name, value in module.model.state_dict().items()})
        noted(self, SimpleNamespace(callback_metrics=metrics, current_epoch=trainer.current_epoch), module)

    kept: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(BestEpoch, "on_train_epoch_end", pretend)
    out = tmp_path / "run"
    options = ["--data", "digits", "--epochs", "3", "--width", "10", "--out", str(out), "--json"]
    assert command(["train", "mondeq", *options, "--validation", "0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    weights = load_file(RunFolder(out).weights)
    assert found["epoch"] == 2 and found["validation/accuracy"] == pytest.approx(0.9)
    assert all(torch.equal(weights[name], value) for name, value in kept[1].items())
    assert not torch.equal(weights["3.weight"], kept[2]["3.weight"])
    rows = read_metrics(out)
    assert [("test/accuracy" in row) for row in rows] == [False, True, False]
    config, data, model = load_image_run(out)
    assert config.validation == 0.2 and len(data.validation_y) == 288
    accuracy = float((model(data.test_x).argmax(1) == data.test_y).double().mean())
    assert rows[1]["test/accuracy"] == pytest.approx(accuracy, abs=0.01) == found["test/accuracy"]


@pytest.mark.parametrize("family", ["lben", "nemon", "orthogonal", "sandwich", "feedforward"])
def test_a_training_that_diverges_is_one_line_and_no_run(family, tmp_path, capsys):
    words = [
        "--data",
        "digits",
        "--epochs",
        "2",
        "--width",
        "8",
        "--learning-rate",
        "1e20",
        "--out",
        str(tmp_path / "run"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wp.NotConvergedWarning)
        assert command(["train", family, *words, "--json"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("wellposed: training diverged") and "give a smaller learning_rate" in said
    assert said.count("\n") == 1 and not RunFolder(tmp_path / "run").is_finished


def test_a_module_of_ones_own_that_diverges_is_an_error():
    x = testing.randn(40, 3).float()
    with pytest.raises(wp.DivergedError, match="smaller learning_rate"):
        wp.train(
            nn.Linear(3, 2),
            (x, (x[:, 0] > 0).long()),
            epochs=2,
            loss=lambda model, x, y: (-model(x).square()).sqrt().sum(),
        )


def test_nothing_keeps_the_training_set_after_training(tmp_path):
    def kept():
        return sum(type(each) is torch.Tensor and each.shape[:2] == (1438, 1) for each in gc.get_objects())

    gc.disable()  # collections by chance would hide what stays
    try:
        before = kept()
        for seed in range(2):
            train(
                TrainConfig(MonDEQFamily(width=4), "digits", epochs=1, seed=seed, validation=0.0), tmp_path / str(seed)
            )
        assert kept() == before
    finally:
        gc.enable()
