"""Faults of certificates and of those who read them: constants, evidence and files that were tampered with, believing gates."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from wellposed.certificates import Certificate, certify
from wellposed.checker import Refuted, check
from wellposed.deployment import export
from wellposed.errors import WellposedError
from wellposed.falsification.campaign import campaign
from wellposed.falsification.deployed.files import CLAIM, MODEL, Files
from wellposed.falsification.module_trials import changed_model_trial, user_module_trial
from wellposed.falsification.tally import Tally
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.normalize import Normalize


def by_campaign(method: str, tamper: Callable[[Certificate], Certificate], trials: int = 20_000) -> tuple[bool, str]:
    """What a method of the campaign notices of certificates that were tampered with."""
    tally = campaign(trials, methods=(method,), tamper=tamper).tallies[method]
    return tally.violations > 0, f"campaign, {method}: {tally.violations} of {tally.trials} trials"


def low(certificate: Certificate) -> Certificate:
    """All constants one per cent smaller."""
    scaled = None if certificate.pairs is None else 0.99 * certificate.pairs
    return replace(certificate, lipschitz=0.99 * certificate.lipschitz, pairs=scaled)


def swapped(certificate: Certificate) -> Certificate:
    """The constants of class margins in other rows."""
    if certificate.pairs is None:
        return certificate
    order = torch.arange(len(certificate.pairs), device="cpu").roll(1)
    return replace(certificate, pairs=certificate.pairs[order])


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Normalize((0.1,), (0.3,)), nn.Flatten(), MonDEQ(9, 8, m=0.5), nn.Linear(8, 3)).eval()


def checked(change: Callable[[Files], None], *, sealed: bool = True) -> tuple[bool, str]:
    """A deployed file with its certificate, which were changed, as the checker sees them.

    Args:
        change: of the file or of its certificate.
        sealed: whether digests are made anew; without that the file is changed alone.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = Files.of(certify(export(_model(), folder / MODEL, input_shape=(1, 3, 3))), folder)
        change(files)
        if sealed:
            files.write(folder)
        else:
            (folder / MODEL).write_bytes(files.model_bytes)
        try:
            check(folder / CLAIM, folder / MODEL)
        except Refuted as refusal:
            return True, f"checker: {refusal}"
    return False, "checker: accepted"


def wrong_metric(files: Files) -> None:
    """The multipliers of other coordinates."""
    (name,) = (name for name in files.tensors if name.endswith("/multipliers"))
    files.tensors[name] = files.tensors[name][:, ::-1]


def swapped_rows(files: Files) -> None:
    """The rows of W in another order, in the file that is certified."""
    matrix = _stored(files)
    matrix.raw_data = np.ascontiguousarray(onnx.numpy_helper.to_array(matrix)[::-1]).tobytes()


def flipped_bit(files: Files) -> None:
    """The last bit of one weight."""
    matrix = _stored(files)
    matrix.raw_data = bytes([matrix.raw_data[0] ^ 1]) + matrix.raw_data[1:]


def _stored(files: Files) -> onnx.TensorProto:
    """W, as it is stored in a file."""
    (matrix,) = (tensor for tensor in files.model.graph.initializer if tensor.name.endswith(".W"))
    return matrix


def broken_normalisation() -> tuple[bool, str]:
    """A normalisation that does not compute what its name says."""

    class Sharper(Normalize):
        def forward(self, x: Tensor) -> Tensor:
            return 100.0 * super().forward(x)

    model = nn.Sequential(Sharper((0.1,), (0.3,)), nn.Flatten(), MonDEQ(9, 8), nn.Linear(8, 3))
    try:
        certify(model)
    except WellposedError as error:
        return True, f"refusal: {str(error)[:60]}…"
    return False, "certified"


def believed(model: nn.Module) -> Certificate:
    """What a gate certifies that asks ``isinstance``: every part is taken for the known class that it is of."""
    taken = copy.deepcopy(model)
    for part in taken.modules():
        part.__class__ = next(
            kind for kind in type(part).__mro__ if kind.__module__.split(".")[0] in ("wellposed", "torch")
        )
        for name in [name for name, value in vars(part).items() if callable(value) and hasattr(type(part), name)]:
            delattr(part, name)
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return certify(taken, method="product")


def believing_gate() -> tuple[bool, str]:
    """Subclasses, hooks and methods of the instance compute something else than the class that a part is of."""
    tally, generator = Tally(), torch.Generator().manual_seed(0)
    for _ in range(60):
        changed_model_trial(tally, generator, believed, kinds=("instance", "subclass", "hook"))
    return tally.violations > 0, f"campaign, changed models: {tally.violations} of {tally.trials} trials"


def blind_tracer(place: int) -> tuple[bool, str]:
    """A reader of forwards takes the first of two branches for their sum, or passes over ``+=``."""
    tally, generator = Tally(), torch.Generator().manual_seed(0)
    for _ in range(200):
        user_module_trial(tally, generator, lambda written: float(written.constants[place]), plain=True)
    return tally.violations > 0, f"campaign, random user modules: {tally.violations} of {tally.trials} trials"


def infinite_logits() -> tuple[bool, str]:
    """A class whose logit is −∞ never wins, and must not make margins infinite."""
    certificate = certify(_model())
    logits = torch.tensor([[5.0, -math.inf, -math.inf], [math.inf, 0.0, 0.0], [math.nan, 0.0, 0.0]], device="cpu")
    radius = certificate.radius(logits, torch.zeros(3, dtype=torch.int64, device="cpu"))
    return not bool(radius.any()), f"refusal: radii {radius.tolist()}"
