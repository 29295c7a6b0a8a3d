"""Networks with dead units or exploding scales as equilibrium networks: right or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing


def explicit(kind):
    return nn.Sequential(
        {
            "linear": lambda: nn.Linear(4, 4), "sandwich": lambda: wp.Sandwich(4, 4), "sll": lambda: wp.SLL(4),
            "residual": lambda: wp.Residual(4), "monotone": lambda: wp.MonDEQ(4, 4),
        }[kind](),
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def spoilt(kind, scale, generator):
    """Whole parameters, rows and columns of one block times a scale."""
    for place in (0, 1, 3):
        names = [name for name, _ in explicit(kind)[place].named_parameters() if "log" not in name]
        for name in names:
            for part in (slice(None), slice(0, 1), (slice(None), slice(0, 1))):
                torch.manual_seed(int(testing.randint(1000, (), generator=generator)))
                network = explicit(kind)
                parameter = dict(network[place].named_parameters())[name]
                if parameter.ndim == 1 and isinstance(part, tuple):
                    continue
                with torch.no_grad():
                    parameter[part].mul_(scale)
                yield network, f"{place} {name} {part}"


@pytest.mark.filterwarnings("ignore::wellposed.errors.NotConvergedWarning")  # which is said so, where biases are huge
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-160, 1e-20, 1e20, 1e160])
@pytest.mark.parametrize("kind", ["linear", "sandwich", "sll", "residual", "monotone"])
def test_dead_and_exploding_units_are_embedded_right_or_refused(kind, scale, dtype):
    right = 0
    for network, which in spoilt(kind, scale, testing.generator(0)):
        network = network.to(dtype).eval()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
            continue
        x = testing.rand(6, 4, dtype=dtype)
        try:
            expected, layer = network(x).detach(), wp.LBEN.from_network(network)
        except (wp.GuaranteeError, wp.InputError):
            continue
        assert all(bool(torch.isfinite(parameter).all()) for parameter in layer.parameters()), which
        with torch.no_grad():
            found = layer.solve(x)
        if not bool(found.converged.all() and torch.isfinite(expected).all()):
            continue
        size = float(expected.abs().amax()) + float(found.value.abs().amax())
        torch.testing.assert_close(layer(x), expected, rtol=0.0, atol=(1e-2 if dtype == torch.float32 else 1e-6) * size)
        right += 1
    assert right > 0 or scale >= 1e20


def test_units_that_nothing_drives_are_constants():
    torch.manual_seed(0)
    network = nn.Sequential(wp.SLL(4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        network[0].free[1] = 0.0
        network[0].bias.fill_(0.7)
        network[1].weight[:2] = 0.0
        network[1].bias[:2] = testing.tensor([2.0, -1.0])
    x = testing.rand(6, 4, dtype=torch.float64)
    whole = wp.LBEN.from_network(nn.Sequential(wp.SLL(4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double())
    layer = wp.LBEN.from_network(network)
    torch.testing.assert_close(layer(x), network(x))
    assert layer.state_features == whole.state_features - 3
    slope = torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(network))(x), 2).max()
    assert slope <= layer.gamma * (1 + 1e-9)
