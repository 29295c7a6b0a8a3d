"""Faults of certificates and of those who read them: constants, evidence and files that were tampered with, believing gates."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
import torch
from torch import Tensor, nn

from wellposed.certificates import Certificate, certify
from wellposed.deployed_checker import Refuted, check
from wellposed.deployment import certify_file, export
from wellposed.deployment.certificate import write
from wellposed.errors import WellposedError
from wellposed.falsification.campaign import campaign
from wellposed.falsification.module_trials import changed_model_trial, user_module_trial
from wellposed.falsification.tally import Tally
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.normalize import Normalize

_MODEL, _CLAIM, _EVIDENCE = "model.onnx", "certificate.json", "certificate.safetensors"


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
    order = torch.arange(len(certificate.pairs)).roll(1)
    return replace(certificate, pairs=certificate.pairs[order])


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Normalize((0.1,), (0.3,)), nn.Flatten(), MonDEQ(9, 8, m=0.5), nn.Linear(8, 3)).eval()


def checked(change: Callable[[Path], None]) -> tuple[bool, str]:
    """A deployed file with its certificate, one of which was changed and sealed anew, as the checker sees them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = export(_model(), folder / _MODEL, input_shape=(1, 3, 3))
        certify_file(certify(network), folder / _MODEL, folder / _CLAIM)
        change(folder)
        try:
            check(folder / _CLAIM, folder / _MODEL)
        except Refuted as refusal:
            return True, f"checker: {refusal}"
    return False, "checker: accepted"


def wrong_metric(folder: Path) -> None:
    """The multipliers of other coordinates."""
    evidence = safetensors.numpy.load_file(folder / _EVIDENCE)
    (metric,) = (name for name in evidence if name.endswith("/multipliers"))
    evidence[metric] = evidence[metric][:, ::-1]
    write(folder / _CLAIM, _unsealed(folder), evidence)


def swapped_rows(folder: Path) -> None:
    """The rows of W in another order, in the file that is certified."""
    model = onnx.load(folder / _MODEL)
    (matrix,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith(".W"))
    matrix.raw_data = np.ascontiguousarray(onnx.numpy_helper.to_array(matrix)[::-1]).tobytes()
    data = model.SerializeToString(deterministic=True)
    (folder / _MODEL).write_bytes(data)
    claim = {**_unsealed(folder), "model_sha256": hashlib.sha256(data).hexdigest()}
    write(folder / _CLAIM, claim, safetensors.numpy.load_file(folder / _EVIDENCE))


def flipped_bit(folder: Path) -> None:
    """One bit in the middle of the file that is certified."""
    data = bytearray((folder / _MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / _MODEL).write_bytes(data)


def _unsealed(folder: Path) -> dict[str, Any]:
    """A claim without digests of itself and of its evidence."""
    content = json.loads((folder / _CLAIM).read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key not in ("evidence", "sha256")}


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
    logits = torch.tensor([[5.0, -math.inf, -math.inf], [math.inf, 0.0, 0.0], [math.nan, 0.0, 0.0]])
    radius = certificate.radius(logits, torch.zeros(3, dtype=torch.int64))
    return not bool(radius.any()), f"refusal: radii {radius.tolist()}"
