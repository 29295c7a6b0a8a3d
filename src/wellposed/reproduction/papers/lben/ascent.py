"""The lower bound of a constant as the authors looked for it: from pairs of noise, by gradients, without a proof."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wellposed.reproduction.cell import Cell, Workspace
from wellposed.reproduction.networks import settings_of, trained
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

PAIRS = 10  # as published for the width study
STEPS = (10, 100, 1000)  # the last as published
_LEARNING_RATE = 1e-2


def ascents(configs: Sequence[TrainConfig], lengths: Sequence[int]) -> list[Cell]:
    """Ascents of so many steps each on some networks."""
    return [
        Cell(ascended, {"config": settings_of(config), "pairs": PAIRS, "steps": steps, "seed": 0})
        for steps in lengths
        for config in configs
    ]


def ascended(workspace: Workspace, *, config: dict[str, Any], pairs: int, steps: int, seed: int) -> dict[str, Any]:
    """Maximise ‖y(u + v) − y(u)‖/‖v‖ by Adam from normal u and v, with a tenth of the rate where it stalls.

    Args:
        workspace: of the recipe.
        config: of the network's training.
        pairs: that start.
        steps: of every pair.
        seed: of the noise.

    Returns:
        ``ratio``, the largest that was found, per normalised pixel.
    """
    _, data, model = load_image_run(trained(workspace, TrainConfig.from_dict(config)), workspace.data_root)
    body = torch.nn.Sequential(*list(model.children())[2:])  # behind normalisation and flattening
    generator = torch.Generator().manual_seed(seed)
    size = (pairs, data.train_x[0].numel())
    at, by = (torch.randn(size, generator=generator, device="cpu").requires_grad_() for _ in range(2))
    optimizer = torch.optim.Adam([at, by], _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max")
    best = 0.0
    for _ in range(steps):
        optimizer.zero_grad()
        ratios = (body(at + by) - body(at)).norm(dim=1) / by.norm(dim=1)
        best = max(best, float(ratios.detach().max()))
        (-ratios.sum()).backward()
        optimizer.step()
        schedule.step(float(ratios.detach().mean()))
    return {"ratio": best}
