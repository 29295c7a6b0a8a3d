"""One gradient step against the last test images, as the published attack was on the last batch alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wellposed.experiments.robustness import plainly_attacked_on
from wellposed.reproduction.cell import Workspace
from wellposed.reproduction.networks import trained
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run


def stepped(workspace: Workspace, *, config: dict[str, Any], radii: Sequence[float], last: int) -> dict[str, Any]:
    """Train a classifier, and perturb the last test images by one step along the gradient.

    Args:
        workspace: of the recipe.
        config: of the training, see `settings_of`.
        radii: sizes of the step, Euclidean, in pixel units.
        last: how many test images.

    Returns:
        ``errors`` in %, one for each radius.
    """
    _, data, model = load_image_run(trained(workspace, TrainConfig.from_dict(config)), workspace.data_root)
    found = plainly_attacked_on(
        model, data.test_x[-last:], data.test_y[-last:], radii, name="gradient-step", norm="2"
    )  # fmt: skip
    return {"errors": [100.0 - 100.0 * found.accuracy(radius) for radius in radii]}
