"""Certified and attacked accuracy of a recipe's network, on the same images, with certified ≤ attacked checked for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wellposed.certificates import certify
from wellposed.data import load_images
from wellposed.errors import CertificateError
from wellposed.experiments.results import Certified, check_consistency
from wellposed.experiments.robustness import attacked_on, certified_on, plainly_attacked_on
from wellposed.network import Network, materialise
from wellposed.reproduction.cell import Workspace
from wellposed.training.run import load_image_run

_BATCH = 1000
_WITNESS_INPUTS = 64


def robustness(
    workspace: Workspace, run: Path, *, radii: Sequence[float], limit: int | None, attack: dict[str, Any] | None, norm: str = "2",
    data: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Certify and attack a trained image classifier.

    Args:
        workspace: of the recipe.
        run: its folder.
        radii: in pixel units.
        limit: only the first so many test images; None for all.
        attack: ``images`` to attack, ``steps`` of projected gradients, ``radii``, and names of ``plain`` perturbations, see
            `plain_distances`; None for no attack. AutoAttack is a measurement of its own, see `strongest`.
        norm: of perturbations.
        data: another set whose test images to take; None for the run's own.

    Returns:
        ``lipschitz`` by the best bound, ``product`` of norms, None where a block has none, and ``lower_bound``, all from pixels
        to logits, and ``deviation``, the least that pixels are divided by: where it is the only one, constants times it are per
        normalised input;
        ``unsolved`` inputs; ``certified`` accuracies in % by rule, one for each radius; and where there is an attack,
        ``attacked`` accuracies in % at its own radii with ``certified_of_attacked``, the certified ones of the same images by the
        best rule, and ``plainly_attacked`` accuracies in % by perturbation.

    Raises:
        CertificateError: the network has no certificate, or an attack contradicts it.
    """
    _, own, model = load_image_run(run, workspace.data_root)
    images = own if data is None else load_images(data, workspace.data_root)
    x, y = images.test_x[:limit], images.test_y[:limit]
    network, found = certified_classifier(model, x, y, norm)
    measured: dict[str, Any] = {
        "lipschitz": found.lipschitz, "product": _product(network, norm),
        "lower_bound": found.lower_bound, "deviation": min(own.std), "unsolved": found.unsolved, "radii": list(radii),
        "certified": {rule: [100.0 * found.accuracy(radius, rule) for radius in radii] for rule in found.radii},
    }  # fmt: skip
    if attack is not None:
        tried, few = attack["radii"], attack["images"]
        attacked = attacked_on(model, x[:few], y[:few], tried, norm=norm, steps=attack["steps"])
        check_consistency(found, attacked)
        measured["attacked"] = [100.0 * attacked.accuracy(radius) for radius in tried]
        measured["certified_of_attacked"] = [100.0 * found.accuracy(radius, limit=few) for radius in tried]
        measured["plainly_attacked"] = {}
        for name in attack.get("plain", ()):
            plainly = plainly_attacked_on(model, x[:few], y[:few], tried, name=name, norm=norm)
            check_consistency(found, plainly)
            measured["plainly_attacked"][name] = [100.0 * plainly.accuracy(radius) for radius in tried]
    return measured


def certified_classifier(model: nn.Module, x: Tensor, y: Tensor, norm: str) -> tuple[Network, Certified]:
    """A classifier of images as a network, and the radii that its best Lipschitz constants certify.

    Args:
        model: in eval mode.
        x: images, shape (batch, channels, height, width).
        y: classes, shape (batch,).
        norm: of perturbations.

    Raises:
        CertificateError: the network has no certificate.
    """
    network = materialise(model, tuple(x.shape[1:]))
    certificate = certify(network, norm=norm, inputs=x[:_WITNESS_INPUTS])
    assert certificate.lower_bound is not None  # inputs were given
    batches = zip(x.split(_BATCH), y.split(_BATCH), strict=True)
    return network, certified_on(batches, network, certificate, certificate.lower_bound, "", lambda _: None)


def _product(network: Network, norm: str) -> float | None:
    """The product of the blocks' constants, or None where one has none in that norm."""
    try:
        return certify(network, norm=norm, method="product").lipschitz
    except CertificateError:
        return None
