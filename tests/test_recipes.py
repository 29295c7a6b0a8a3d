"""The recipes that ship with the package: networks of the published sizes exist, run, and are trained for a few steps."""

from __future__ import annotations

import pytest
import torch

from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.data import ImageData
from wellposed.training.config import presets
from wellposed.training.loaders import build_model

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]

PAPERS = {name: config for name, config in presets().items() if name.startswith("papers/")}
LARGE = [name for name in PAPERS if "large" in name]
PARAMETERS = {
    # Two scalars of the published weight normalisation less, and a bias for every channel of the further tiers more.
    "papers/mnist-mondeq-conv": 79_500 - 2,
    "papers/mnist-mondeq-multi": 81_394 - 8 + 64,
    "papers/cifar10-mondeq-conv": 172_218 - 2,
    "papers/cifar10-mondeq-conv-large": 853_612 - 2,
    "papers/cifar10-mondeq-multi": 170_194 - 8 + 92,
    "papers/cifar10-mondeq-multi-large": 1_014_546 - 8 + 256,
    "papers/mnist-pcdeq-conv": 69_136,
    "papers/mnist-pcdeq-multi": 41_278,
    "papers/cifar10-pcdeq-conv": 164_760,
    "papers/cifar10-pcdeq-multi": 130_950,
    "papers/cifar10-pcdeq-multi-large": 661_470,
}


def images(name):
    generator = testing.generator(0)
    shape = (1, 28, 28) if "mnist" in name else (3, 32, 32)
    x = testing.rand(2, *shape, generator=generator)
    channels = shape[0]
    y, mean, std = testing.arange(2), (0.5,) * channels, (0.25,) * channels
    return ImageData(name=PAPERS[name].data, train_x=x, train_y=y, test_x=x, test_y=y, mean=mean, std=std)


def test_every_family_has_a_recipe_for_cifar10():
    families = {config.family.name for config in PAPERS.values() if config.data == "cifar10"}
    assert families == {
        "mondeq-conv",
        "mondeq-multi",
        "lben-conv",
        "nemon-conv",
        "pcdeq-conv",
        "pcdeq-multi",
        "orthogonal-conv",
    }


def test_models_have_the_published_numbers_of_parameters():
    for name, count in PARAMETERS.items():
        model = build_model(PAPERS[name], images(name))
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == pytest.approx(count, abs=0), name


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in PAPERS])
def test_a_few_steps_of_every_recipe(name):
    config, data = PAPERS[name], images(name)
    torch.manual_seed(0)
    model = build_model(config, data)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        logits = model(data.train_x)
        loss = torch.nn.functional.cross_entropy(config.temperature * logits, data.train_y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert logits.shape == (2, 10)
    assert losses[-1] < losses[0]


def test_training_and_certifying_with_the_test_images_of_another_set(tmp_path, monkeypatch, capsys):
    """The protocol for recompressed images: train on one set, report on its test images and on others."""
    import json

    import wellposed.data.collection as loaders
    import wellposed.experiments.robustness as robustness

    generator = testing.generator(0)

    def fake(name, data_root=None):
        x = testing.rand(60, 3, 8, 8, generator=generator) * 0.5
        y = testing.arange(60) % 4
        x[testing.arange(60), 0, y, y] = 1.0
        if name == "digits":
            x = x[:, :1]
        parts = {"train_x": x[:40], "train_y": y[:40], "test_x": x[40:], "test_y": y[40:]}
        return ImageData(name=name, **parts, mean=(0.25,) * 3, std=(0.2,) * 3)

    monkeypatch.setattr(loaders, "load_images", fake)
    monkeypatch.setattr(robustness, "load_images", fake)
    out = str(tmp_path / "run")
    options = ["--data", "cifar10-jpeg", "--epochs", "2", "--width", "4", "--hidden", "6", "--pool", "2", "--augment"]
    assert command(["train", "orthogonal-conv", *options, "--batch-size", "20", "--out", out, "--json"]) == 0
    capsys.readouterr()
    assert command(["certify", out, "--eps", "0.1", "0.141176", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["lipschitz"] <= 1.0
    assert command(["certify", out, "--data", "cifar10-lossless", "--eps", "0.1", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["samples"] == 20 and other["data"] == "cifar10-lossless" and other["lipschitz"] == own["lipschitz"]
    assert (tmp_path / "run" / "certified-cifar10-lossless.json").exists()
    assert command(["certify", out, "--data", "digits"]) == 2
    assert "has other images" in capsys.readouterr().err
