"""Faults of certificates and of those who read them: constants, evidence and weights that were tampered with, believing gates."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from wellposed.certificates import Certificate, certify
from wellposed.certificates.filing.file import read, write
from wellposed.checker import Checker, Refuted
from wellposed.errors import WellposedError
from wellposed.falsification.campaign import campaign
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


def checked(change: Callable[[dict[str, Tensor], dict[str, Tensor]], None]) -> tuple[bool, str]:
    """A sealed certificate whose evidence or weights were changed, as the checker sees it."""
    model = _model()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.json"
        certify(model).save(path)
        content, evidence = read(path)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        change(evidence, weights)
        content = {key: value for key, value in content.items() if key not in ("format", "evidence")}
        write(path, content, evidence)
        safetensors.torch.save_file(weights, path.with_name("weights.safetensors"))
        try:
            Checker(path, path.with_name("weights.safetensors")).run()
        except Refuted as refusal:
            return True, f"checker: {refusal}"
    return False, "checker: accepted"


def wrong_metric(evidence: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """The multipliers of other coordinates."""
    evidence["joint/multipliers"] = evidence["joint/multipliers"].flip(1).clone()


def swapped_evidence(evidence: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """The rows of W in another order."""
    evidence["2/matrix"] = evidence["2/matrix"].flip(0).clone()


def flipped_bit(evidence: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """The last bit of one weight."""
    weights["2.constraint.A"].view(torch.int32).reshape(-1)[0] ^= 1


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
