"""Faults that were really made, or that would be fatal, each planted and looked for by the campaign, the checker or a refusal."""

from __future__ import annotations

import copy
import math
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from wellposed.certificates import Certificate, certify
from wellposed.certificates.filing.file import read, write
from wellposed.checker import Checker, Refuted
from wellposed.errors import WellposedError
from wellposed.experiments.falsification import campaign, pairs_of
from wellposed.experiments.module_trials import changed_model_trial, user_module_trial
from wellposed.experiments.tally import Tally
from wellposed.layers.conv_nemon import ConvNEMON
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.normalize import Normalize
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers import ForwardBackward
from wellposed.training.buffers import FrozenBuffers


@dataclass(frozen=True)
class Outcome:
    """What became of one fault.

    Attributes:
        fault: what was planted.
        caught: whether it was noticed.
        by: what noticed it, and what it said.
    """

    fault: str
    caught: bool
    by: str


def planted_faults() -> list[Outcome]:
    """Plant every fault, one after the other."""
    found = []
    for name, plant in FAULTS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            caught, by = plant()
        found.append(Outcome(name, caught, by))
    return found


def _by_campaign(method: str, tamper: Callable[[Certificate], Certificate], trials: int = 20_000) -> tuple[bool, str]:
    tally = campaign(trials, methods=(method,), tamper=tamper).tallies[method]
    return tally.violations > 0, f"campaign, {method}: {tally.violations} of {tally.trials} trials"


def _low(certificate: Certificate) -> Certificate:
    scaled = None if certificate.pairs is None else 0.99 * certificate.pairs
    return replace(certificate, lipschitz=0.99 * certificate.lipschitz, pairs=scaled)


def _swapped(certificate: Certificate) -> Certificate:
    if certificate.pairs is None:
        return certificate
    order = torch.arange(len(certificate.pairs)).roll(1)
    return replace(certificate, pairs=certificate.pairs[order])


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Normalize((0.1,), (0.3,)), nn.Flatten(), MonDEQ(9, 8, m=0.5), nn.Linear(8, 3)).eval()


def _checked(change: Callable[[dict[str, Tensor], dict[str, Tensor]], None]) -> tuple[bool, str]:
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


def _wrong_metric(evidence: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    evidence["joint/multipliers"] = evidence["joint/multipliers"].flip(1).clone()


def _swapped_evidence(evidence: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    evidence["2/matrix"] = evidence["2/matrix"].flip(0).clone()


def _flipped_bit(evidence: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    weights["2.constraint.A"].view(torch.int32).reshape(-1)[0] ^= 1


def _kappa_after_the_solve() -> tuple[bool, str]:
    """κ scales the equilibrium instead of the map: the solve is as steep as ever, and the constant is that of the scaled map."""
    torch.manual_seed(0)
    claimed = OrthogonalDEQ(4, 8, kappa=0.5, dtype=torch.float64)
    really = OrthogonalDEQ(4, 8, kappa=0.95, dtype=torch.float64)
    really.load_state_dict({**claimed.state_dict(), **{k: v for k, v in really.state_dict().items() if "extra" in k}})
    return _exceeded(lambda x: 0.5 * really(x), claimed.lipschitz()[0], 4)


def _missing_taps() -> tuple[bool, str]:
    """NEMON's published condition for convolutions counts one tap where a row of W has k² of them."""
    torch.manual_seed(0)
    layer = ConvNEMON(1, 2, (5, 5), mu=0.9, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.abs_()
        layer.constraint.slack.fill_(-6.0)
    kernel = layer.operator().kernel.detach()  # type: ignore[attr-defined]
    sums = kernel.sum((2, 3)) / 9.0
    sensitivity = float(torch.linalg.matrix_norm(torch.linalg.inv(torch.eye(2, dtype=torch.float64) - sums), 2))
    claimed = layer.injection_norm() * sensitivity

    def evaluate(x: Tensor) -> Tensor:
        return layer(x.abs().reshape(-1, 1, 5, 5)).flatten(1)

    return _exceeded(evaluate, claimed, 25)


def _exceeded(evaluate: Callable[[Tensor], Tensor], claimed: float, inputs: int) -> tuple[bool, str]:
    class Map(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return evaluate(x)

    largest = 0.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        first, second = pairs_of(Map(), inputs, 1.0, generator)
        with torch.no_grad():
            slopes = (evaluate(second) - evaluate(first)).norm(dim=1) / (second - first).norm(dim=1)
        largest = max(largest, float(slopes[(second - first).norm(dim=1) > 1e-3].max()))
    return largest > claimed, f"campaign: a slope of {largest:.4g}, {claimed:.4g} was claimed"


def _residual_left_out() -> tuple[bool, str]:
    """Radii from the logits of a loose solve, as if they were exact."""
    # One unit, so that nothing is lost but the residual: the number of steps, and with it the value, jumps with the input.
    layer = MonDEQ(1, 1, m=0.05, solver=ForwardBackward(), rtol=1e-6, atol=3.0)
    head = nn.Linear(1, 2)
    model = nn.Sequential(layer, head).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.injection.weight.fill_(1.0)
        layer.injection.bias.zero_()
        layer.constraint.get_parameter("A").fill_(0.1)
        layer.constraint.get_parameter("B").zero_()
        head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    wrong = counted = trials = 0
    for threshold in torch.linspace(1.0, 30.0, 40).tolist():
        with torch.no_grad():
            head.bias.copy_(torch.tensor([-threshold, threshold]))
            certificate = certify(model)
            x = 2.0 * torch.rand(500, 1, generator=generator)
            logits = model(x)
            labels = logits.argmax(1)
            toward = torch.where(labels == 0, -1.0, 1.0)[:, None]
            for counts in (False, True):
                radius = certificate.evaluate(x, labels, forward=True) if counts else certificate.radius(logits, labels)
                moved = x + (0.999 * radius[:, None] * toward).float()
                changed = int(((model(moved).argmax(1) != labels) & (radius > 0.0)).sum())
                wrong, counted = (wrong, counted + changed) if counts else (wrong + changed, counted)
        trials += len(x)
    caught = wrong > 0 and counted == 0
    return caught, f"campaign, radius: {wrong} of {trials} trials; {counted} once the residual is counted"


def _tiny_weights() -> tuple[bool, str]:
    """Products of weights that underflow to zero would certify every radius."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4, dtype=torch.float64) for _ in range(3)]
    with torch.no_grad():
        layers[0].weight.mul_(1e-200)
        layers[1].weight.mul_(1e-200)
        layers[2].weight.mul_(1e200)
    certificate = certify(nn.Sequential(*layers))
    logarithm = sum(math.log(spectral_norm_upper_bound(layer.weight)) for layer in layers)
    least = float(certificate.pairs.fill_diagonal_(1.0).min()) if certificate.pairs is not None else 0.0
    fine = certificate.lipschitz > 0.0 and least > 0.0 and math.log(certificate.lipschitz) >= logarithm - 1e-9
    return fine, f"refusal: the constant stays above zero, {certificate.lipschitz:.3g}"


def _broken_normalisation() -> tuple[bool, str]:
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


def _believing_gate() -> tuple[bool, str]:
    """Subclasses, hooks and methods of the instance compute something else than the class that a part is of."""
    tally, generator = Tally(), torch.Generator().manual_seed(0)
    for _ in range(60):
        changed_model_trial(tally, generator, believed, kinds=("instance", "subclass", "hook"))
    return tally.violations > 0, f"campaign, changed models: {tally.violations} of {tally.trials} trials"


def _blind_tracer(place: int) -> tuple[bool, str]:
    """A reader of forwards takes the first of two branches for their sum, or passes over ``+=``."""
    tally, generator = Tally(), torch.Generator().manual_seed(0)
    for _ in range(200):
        user_module_trial(tally, generator, lambda written: float(written.constants[place]), plain=True)
    return tally.violations > 0, f"campaign, random user modules: {tally.violations} of {tally.trials} trials"


def _infinite_logits() -> tuple[bool, str]:
    """A class whose logit is −∞ never wins, and must not make margins infinite."""
    certificate = certify(_model())
    logits = torch.tensor([[5.0, -math.inf, -math.inf], [math.inf, 0.0, 0.0], [math.nan, 0.0, 0.0]])
    radius = certificate.radius(logits, torch.zeros(3, dtype=torch.int64))
    return not bool(radius.any()), f"refusal: radii {radius.tolist()}"


def _power_iteration() -> tuple[bool, str]:
    """Power iteration approaches a norm from below: what it says after a few steps is no bound."""
    generator = torch.Generator().manual_seed(0)
    below = worst = 0
    for _ in range(50):
        matrix = torch.randn(30, 30, generator=generator, dtype=torch.float64)
        vector = torch.randn(30, generator=generator, dtype=torch.float64)
        for _ in range(3):
            vector = matrix.t() @ (matrix @ vector)
            vector = vector / vector.norm()
        norm = float(torch.linalg.matrix_norm(matrix, 2))
        below += float((matrix @ vector).norm()) < norm * (1.0 - 1e-6)
        worst += spectral_norm_upper_bound(matrix) < norm * (1.0 - 1e-14)
    return below > 0 and worst == 0, f"proof: {below} of 50 estimates are below the norm, {worst} of the proved bounds"


def _rounding_search() -> tuple[bool, str]:
    """Floating-point neighbours of the point where a linear classifier changes its mind, within the stated radius."""
    torch.manual_seed(0)
    flipped = searched = 0
    for dtype in (torch.float32, torch.float64):
        for _ in range(30):
            model = nn.Sequential(nn.Linear(6, 2, dtype=dtype)).eval()
            certificate = certify(model)
            x = torch.randn(40, 6, dtype=dtype)
            with torch.no_grad():
                labels = model(x).argmax(1)
                radius = certificate.evaluate(x, labels, forward=True)
                row = (model[0].weight[1] - model[0].weight[0]).double()  # type: ignore[index]
                toward = torch.where(labels == 0, 1.0, -1.0)[:, None] * row / row.norm()
                boundary = (x.double() + radius[:, None] * toward).to(dtype)
                for _ in range(20):
                    steps = torch.randint(-2, 3, boundary.shape).to(dtype)
                    near = boundary + steps * torch.finfo(dtype).eps * boundary.abs()
                    inside = (near.double() - x.double()).norm(dim=1) <= radius
                    searched += int(inside.sum())
                    flipped += int((model(near).argmax(1) != labels)[inside].sum())
    return flipped == 0 and searched > 1000, f"refusal: {flipped} of {searched} neighbours inside change the class"


def _leaking_statistics() -> tuple[bool, str]:
    """Running statistics that go on after the prior was chosen see the samples that a PAC-Bayes bound counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    model(torch.randn(100, 4))  # the prior's half
    frozen = FrozenBuffers(model.eval())
    model(torch.randn(100, 4))  # the other half, in evaluation mode
    frozen.check(model)
    model.train()(torch.randn(100, 4))
    try:
        frozen.check(model)
    except WellposedError as error:
        return True, f"refusal: {str(error)[:60]}…"
    return False, "certified"


FAULTS: dict[str, Callable[[], tuple[bool, str]]] = {
    "a Lipschitz constant × 0.99": lambda: _by_campaign("metric", _low),
    "constants of a convolutional network × 0.99": lambda: _by_campaign("images", _low, 40_000),
    "constants of class margins × 0.99": lambda: _by_campaign("pairs", _low, 60_000),
    "rows of the class margins swapped": lambda: _by_campaign("pairs", _swapped),
    "a wrong metric Λ": lambda: _checked(_wrong_metric),
    "rows of W swapped in the evidence": lambda: _checked(_swapped_evidence),
    "one flipped bit of a weight": lambda: _checked(_flipped_bit),
    "κ after the solve": _kappa_after_the_solve,
    "NEMON's missing k²": _missing_taps,
    "a solver's residual left out": _residual_left_out,
    "tiny weights that underflow": _tiny_weights,
    "a broken normalisation": _broken_normalisation,
    "a gate that believes isinstance": _believing_gate,
    "a tracer that ignores a branch": lambda: _blind_tracer(1),
    "a tracer that ignores +=": lambda: _blind_tracer(2),
    "logits of −∞": _infinite_logits,
    "power iteration": _power_iteration,
    "a rounding search at the radius": _rounding_search,
    "running statistics that see the bound's samples": _leaking_statistics,
}


def as_text(outcomes: list[Outcome]) -> str:
    """One line per fault."""
    width = max(len(outcome.fault) for outcome in outcomes)
    return "\n".join(
        f"{outcome.fault:<{width}}  {'caught' if outcome.caught else 'MISSED'}  {outcome.by}" for outcome in outcomes
    )
