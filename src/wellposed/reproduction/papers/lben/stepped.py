"""One gradient step against the last test images, as the published attack was on the last batch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from wellposed.experiments.robustness import plainly_attacked_on
from wellposed.reproduction.cell import Workspace
from wellposed.reproduction.networks import trained
from wellposed.reproduction.papers.lben.stopped_early import StoppedEarly
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run


def stepped(
    workspace: Workspace, *, config: dict[str, Any], radii: Sequence[float], last: int,
    iteration: Mapping[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a classifier, and perturb the last test images by one step along the gradient.

    Args:
        workspace: of the recipe.
        config: of the training, see `settings_of`.
        radii: sizes of the step, Euclidean, in pixel units.
        last: how many test images.
        iteration: evaluate the trained network by `StoppedEarly` with these settings; None for its equilibrium.

    Returns:
        ``errors`` in %, one for each radius.
    """
    _, data, model = load_image_run(trained(workspace, TrainConfig.from_dict(config)), workspace.data_root)
    if iteration is not None:
        parts: list[Any] = list(model.children())  # the last of which is the layer
        model = nn.Sequential(*parts[:-1], StoppedEarly(parts[-1], **iteration)).eval()
    found = plainly_attacked_on(
        model, data.test_x[-last:], data.test_y[-last:], radii, name="gradient-step", norm="2"
    )  # fmt: skip
    return {"errors": [100.0 - 100.0 * found.accuracy(radius) for radius in radii]}
