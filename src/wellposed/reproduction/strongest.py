"""Certified accuracy, and accuracy under the strongest of all attacks, AutoAttack among them, of the same images.

The accuracies that a recipe takes from its paper are those of the paper's attacks. What a certificate must not exceed is measured
here: image by image, the nearest example of DeepFool, projected gradients, plain perturbations and AutoAttack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from wellposed.attacks.plain import PLAIN
from wellposed.data import load_images
from wellposed.errors import CertificateError
from wellposed.experiments.results import Attacked, check_consistency
from wellposed.experiments.robustness import attacked_on, auto_attacked_on, plainly_attacked_on
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import trained
from wellposed.reproduction.robustness import certified_classifier
from wellposed.reproduction.view import Quantity, Table
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

IMAGES = 100  # the first ones of the test set: AutoAttack takes seconds for each
STANDARD = {"steps": 40, "auto_steps": 100, "queries": 5000}  # of projected gradients; of AutoAttack, its authors' own
SMALL = {"steps": 5, "auto_steps": 5, "queries": 50}
_SMALL_IMAGES = 4
_ROUNDING = 1e-9  # of shares in %, which differ by a ten-thousandth at least where they are different


def pressed(
    measure: Callable[..., dict[str, Any]], config: dict[str, Any], radii: Sequence[float], *, quick: bool, **settings: Any
) -> Cell:  # fmt: skip
    """The cell that presses a trained network by all attacks.

    Args:
        measure: `attacked_classifier`, or a function like it for another certificate.
        config: of the training.
        radii: in pixel units, at which AutoAttack and projected gradients are run.
        quick: whether to press few images with little effort.
        settings: further ones of the measurement.
    """
    extent = {"images": _SMALL_IMAGES, "effort": SMALL} if quick else {"images": IMAGES, "effort": STANDARD}
    return Cell(measure, {"config": config, "radii": sorted(set(radii)), **extent, **settings})


def attacked_classifier(
    workspace: Workspace, *, config: dict[str, Any], radii: Sequence[float], images: int, effort: dict[str, int],
    norm: str = "2", data: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a classifier, press it by all attacks, and certify the same images by its best Lipschitz constants.

    Args:
        workspace: of the recipe.
        config: of the training, see `settings_of`.
        radii: in pixel units.
        images: the first so many test images.
        effort: see `strongest`.
        norm: of perturbations.
        data: another set whose test images to take; None for the run's own.

    Returns:
        What `beside` says.

    Raises:
        CertificateError: the network has no certificate, or an attack contradicts it.
    """
    _, own, model = load_image_run(trained(workspace, TrainConfig.from_dict(config)), workspace.data_root)
    from_set = own if data is None else load_images(data, workspace.data_root)
    x, y = from_set.test_x[:images], from_set.test_y[:images]
    _, found = certified_classifier(model, x, y, norm)
    attacked = strongest(model, x, y, radii, norm=norm, effort=effort)
    check_consistency(found, attacked)
    return beside([100.0 * found.accuracy(radius) for radius in radii], attacked, radii)


def strongest(
    model: nn.Module, x: Tensor, y: Tensor, radii: Sequence[float], *, norm: str, effort: dict[str, int]
) -> Attacked:
    """The smallest adversarial distance of every image by all attacks of a norm.

    Args:
        model: maps pixels to logits, in eval mode.
        x: images, shape (batch, channels, height, width).
        y: classes, shape (batch,).
        radii: in pixel units.
        norm: ``"2"`` or ``"inf"``.
        effort: ``steps`` of projected gradients, ``auto_steps`` and ``queries`` of AutoAttack.
    """
    searched = attacked_on(model, x, y, radii, norm=norm, steps=effort["steps"])
    plain = [
        plainly_attacked_on(model, x, y, radii, name=name, norm=norm)
        for name, (norms, _) in PLAIN.items()
        if norm in norms
    ]
    rows = zip(searched.distances, *(found.distances for found in plain), strict=True)
    known = replace(searched, distances=[min(row) for row in rows])
    return auto_attacked_on(model, x, y, known, norm=norm, steps=effort["auto_steps"], queries=effort["queries"])


def beside(certified: Sequence[float], attacked: Attacked, radii: Sequence[float]) -> dict[str, Any]:
    """``certified`` and ``attacked`` accuracies in % of the same images, one for each radius.

    Raises:
        CertificateError: more is certified than withstood the attacks.
    """
    found = {"certified": list(certified), "attacked": [100.0 * attacked.accuracy(radius) for radius in radii]}
    check_order(found["certified"], found["attacked"], radii, "measured")
    return found


def check_order(certified: Sequence[float], attacked: Sequence[float], radii: Sequence[float], of: str) -> None:
    """No more images may be certified than withstand attacks on the same ones.

    Args:
        certified: accuracies in %, one for each radius.
        attacked: of the same images.
        radii: in pixel units.
        of: whose accuracies these are, for the message.

    Raises:
        CertificateError: more are, at some radius.
    """
    for radius, proved, left in zip(radii, certified, attacked, strict=True):
        if proved > left + _ROUNDING:
            raise CertificateError(
                f"{of}: {proved:g} % certified at {radius:g}, but {left:g} % of the same images withstand the attacks: the "
                "certificate or the record is wrong"
            )


def same_images(records: Sequence[Record], name: Callable[[Record], str]) -> list[Table]:
    """Certified accuracy and accuracy under the strongest attack, of the same images.

    Args:
        records: of `attacked_classifier` or of functions like it.
        name: what tables call a record's network.

    Returns:
        One table; none where there are no records, as of earlier versions of a recipe.

    Raises:
        CertificateError: in some row more is certified than withstood the attacks.
    """
    rows = []
    for record in records:
        setting, radii = name(record), record.settings["radii"]
        certified, attacked = record.measured["certified"], record.measured["attacked"]
        check_order(certified, attacked, radii, setting)
        for radius, proved, left in zip(radii, certified, attacked, strict=True):
            rows.append(Quantity(setting, f"accuracy at {radius:.3g}, certified, %", [proved], "higher"))
            rows.append(Quantity(setting, f"accuracy at {radius:.3g}, under all attacks, %", [left], "higher"))
    counts = sorted({record.settings["images"] for record in records})
    title = (
        f"The same {' or '.join(map(str, counts))} test images certified and attacked, one seed, radii in pixels from 0 to 1: by "
        "DeepFool, projected gradients, plain perturbations and AutoAttack, of which the nearest example counts"
    )
    return [Table(title, rows)] if rows else []
