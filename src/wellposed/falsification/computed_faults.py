"""Faults of what is computed: maps, solves, norms and statistics that are others than those that a claim is about."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.certificates import certify
from wellposed.errors import WellposedError
from wellposed.falsification.pairs import pairs_of
from wellposed.layers.conv_nemon import ConvNEMON
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers import ForwardBackward
from wellposed.training.buffers import FrozenBuffers


def kappa_after_the_solve() -> tuple[bool, str]:
    """κ scales the equilibrium instead of the map: the solve is as steep as ever, and the constant is that of the scaled map."""
    torch.manual_seed(0)
    claimed = OrthogonalDEQ(4, 8, kappa=0.5, dtype=torch.float64)
    really = OrthogonalDEQ(4, 8, kappa=0.95, dtype=torch.float64)
    really.load_state_dict({**claimed.state_dict(), **{k: v for k, v in really.state_dict().items() if "extra" in k}})
    return _exceeded(lambda x: 0.5 * really(x), claimed.lipschitz()[0], 4)


def missing_taps() -> tuple[bool, str]:
    """NEMON's published condition for convolutions counts one tap where a row of W has k² of them."""
    torch.manual_seed(0)
    layer = ConvNEMON(1, 2, (5, 5), mu=0.9, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.abs_()
        layer.constraint.slack.fill_(-6.0)
    operator: Any = layer.operator()
    kernel = operator.kernel.detach()
    sums = kernel.sum((2, 3)) / 9.0
    sensitivity = float(
        torch.linalg.matrix_norm(torch.linalg.inv(torch.eye(2, dtype=torch.float64, device="cpu") - sums), 2)
    )
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


def residual_left_out() -> tuple[bool, str]:
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
        head.weight.copy_(torch.tensor([[1.0], [-1.0]], device="cpu"))
    wrong = counted = trials = 0
    for threshold in torch.linspace(1.0, 30.0, 40, device="cpu").tolist():
        with torch.no_grad():
            head.bias.copy_(torch.tensor([-threshold, threshold], device="cpu"))
            certificate = certify(model)
            x = 2.0 * torch.rand(500, 1, generator=generator, device="cpu")
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


def tiny_weights() -> tuple[bool, str]:
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


def power_iteration() -> tuple[bool, str]:
    """Power iteration approaches a norm from below: what it says after a few steps is no bound."""
    generator = torch.Generator().manual_seed(0)
    below = worst = 0
    for _ in range(50):
        matrix = torch.randn(30, 30, generator=generator, dtype=torch.float64, device="cpu")
        vector = torch.randn(30, generator=generator, dtype=torch.float64, device="cpu")
        for _ in range(3):
            vector = matrix.t() @ (matrix @ vector)
            vector = vector / vector.norm()
        norm = float(torch.linalg.matrix_norm(matrix, 2))
        below += float((matrix @ vector).norm()) < norm * (1.0 - 1e-6)
        worst += spectral_norm_upper_bound(matrix) < norm * (1.0 - 1e-14)
    return below > 0 and worst == 0, f"proof: {below} of 50 estimates are below the norm, {worst} of the proved bounds"


def rounding_search() -> tuple[bool, str]:
    """Floating-point neighbours of the point where a linear classifier changes its mind, within the stated radius."""
    torch.manual_seed(0)
    flipped = searched = 0
    for dtype in (torch.float32, torch.float64):
        for _ in range(30):
            model = nn.Linear(6, 2, dtype=dtype).eval()
            certificate = certify(model)
            x = torch.randn(40, 6, dtype=dtype, device="cpu")
            with torch.no_grad():
                labels = model(x).argmax(1)
                radius = certificate.evaluate(x, labels, forward=True)
                row = (model.weight[1] - model.weight[0]).double()
                toward = torch.where(labels == 0, 1.0, -1.0)[:, None] * row / row.norm()
                boundary = (x.double() + radius[:, None] * toward).to(dtype)
                for _ in range(20):
                    steps = torch.randint(-2, 3, boundary.shape, device="cpu").to(dtype)
                    near = boundary + steps * torch.finfo(dtype).eps * boundary.abs()
                    inside = (near.double() - x.double()).norm(dim=1) <= radius
                    searched += int(inside.sum())
                    flipped += int((model(near).argmax(1) != labels)[inside].sum())
    return flipped == 0 and searched > 1000, f"refusal: {flipped} of {searched} neighbours inside change the class"


def leaking_statistics() -> tuple[bool, str]:
    """Running statistics that go on after the prior was chosen see the samples that a PAC-Bayes bound counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    model(torch.randn(100, 4, device="cpu"))  # the prior's half
    frozen = FrozenBuffers(model.eval())
    model(torch.randn(100, 4, device="cpu"))  # the other half, in evaluation mode
    frozen.check(model)
    model.train()(torch.randn(100, 4, device="cpu"))
    try:
        frozen.check(model)
    except WellposedError as error:
        return True, f"refusal: {str(error)[:60]}…"
    return False, "certified"
