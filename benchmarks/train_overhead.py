"""CPU time of ``wellposed train`` over that of a bare loop with the same network, optimizer, schedule and batches, in turns.

    python benchmarks/train_overhead.py [--samples N] [--epochs N] [--repeats N] [--data-root DATA]

One thread, MonDEQ of width 87 on the first MNIST images; both evaluate the test images once. Reading the data counts for neither.
The medians are compared, and both must end at the same test loss.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightning
import torch
from torch import nn

from wellposed.data import ImageData, load_images
from wellposed.training import run
from wellposed.training.config import TrainConfig, presets
from wellposed.training.loaders import build_model


def trained(config: TrainConfig) -> float:
    """Test loss after ``wellposed train``."""
    with tempfile.TemporaryDirectory() as folder:
        return run.train(config, Path(folder), accelerator="cpu")["test/loss"]


def looped(config: TrainConfig, data: ImageData) -> float:
    """Test loss after a bare loop."""
    lightning.seed_everything(config.seed, verbose=False)
    model = build_model(config, data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(data.train_y) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=steps)
    generator = torch.Generator()
    for epoch in range(config.epochs):
        generator.manual_seed(config.seed * 1_000_003 + epoch)
        for rows in torch.randperm(len(data.train_y), generator=generator).split(config.batch_size):
            loss = nn.functional.cross_entropy(model(data.train_x[rows]), data.train_y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(images) for images in data.test_x.split(1000)])
        return float(nn.functional.cross_entropy(logits, data.test_y))


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """Seconds of CPU time, and the loss."""
    begin = time.process_time()
    loss = work()
    return time.process_time() - begin, loss


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=12_800)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    config = replace(presets()["mnist-accurate"], epochs=options.epochs)
    whole, samples = load_images("mnist", options.data_root), options.samples
    data = replace(whole, train_x=whole.train_x[:samples], train_y=whole.train_y[:samples])
    run.load_data = lambda *_: data
    trained(config), looped(config, data)  # what is done once in a process
    pairs = [(timed(lambda: trained(config)), timed(lambda: looped(config, data))) for _ in range(options.repeats)]
    for (_, own), (_, bare) in pairs:
        assert abs(own - bare) <= 1e-5, "other losses"
    own, bare = (statistics.median(pair[place][0] for pair in pairs) for place in (0, 1))
    spread = sorted(one[0] / other[0] for one, other in pairs)
    singles = f"single ratios {spread[0]:.2f} to {spread[-1]:.2f}, median {statistics.median(spread):.3f}"
    print(f"wellposed train {own:.3f} s, bare loop {bare:.3f} s, ratio {own / bare:.3f} ({singles})")


if __name__ == "__main__":
    main()
