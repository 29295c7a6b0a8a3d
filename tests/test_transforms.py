"""Layers under ``torch.func``: many sets of weights, many inputs, derivatives in either mode, of values and of solves."""

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing

EDGES = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])
GRAPHS = wp.Graphs(EDGES, 8, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]))
PRECISE = {"rtol": 1e-9, "atol": 1e-9, "dtype": torch.float64}
LAYERS = {
    "MonDEQ": lambda: wp.MonDEQ(4, 6, **PRECISE),
    "LBEN": lambda: wp.LBEN(4, 6, **PRECISE),
    "LBEN gamma": lambda: wp.LBEN(4, 6, gamma=1.0, out_features=2, **PRECISE),
    "NEMON": lambda: wp.NEMON(4, 6, **PRECISE),
    "PcDEQ": lambda: wp.PcDEQ(4, 6, **PRECISE),
    "OrthogonalDEQ": lambda: wp.OrthogonalDEQ(4, 6, **PRECISE),
    "OrthogonalDEQ residual": lambda: wp.OrthogonalDEQ(4, 6, coupling="residual", activation="householder", **PRECISE),
    "OrthogonalDEQ exponential": lambda: wp.OrthogonalDEQ(4, 6, parametrisation="exponential", **PRECISE),
    "ConvMonDEQ": lambda: wp.ConvMonDEQ(2, 3, (4, 5), **PRECISE),
    "ConvLBEN": lambda: wp.ConvLBEN(2, 3, (4, 5), **PRECISE),
    "ConvLBEN gamma": lambda: wp.ConvLBEN(2, 3, (4, 5), gamma=1.0, out_features=2, **PRECISE),
    "ConvNEMON": lambda: wp.ConvNEMON(2, 3, (4, 5), **PRECISE),
    "ConvPcDEQ": lambda: wp.ConvPcDEQ(2, 3, (4, 5), **PRECISE),
    "ConvOrthogonalDEQ": lambda: wp.ConvOrthogonalDEQ(2, 4, (4, 5), **PRECISE),
    "MultiScaleMonDEQ": lambda: wp.MultiScaleMonDEQ(2, (3, 2), (4, 6), **PRECISE),
    "ImplicitGraph ignn": lambda: wp.ImplicitGraph(4, 6, **PRECISE),
    "ImplicitGraph orthogonal": lambda: wp.ImplicitGraph(4, 6, variant="orthogonal", **PRECISE),
    "ImplicitGraph lipschitz": lambda: wp.ImplicitGraph(4, 6, variant="lipschitz", **PRECISE),
}


class State(nn.Module):
    """The equilibrium of a layer, with its evidence or without."""

    def __init__(self, layer, solves):
        super().__init__()
        self.layer, self.solves = layer, solves
        self.aside = (GRAPHS,) if isinstance(layer, wp.ImplicitGraph) else ()

    def forward(self, x):
        if self.solves:
            solution = self.layer.solve(x, *self.aside)
            return solution.value, solution.error_bound
        return self.layer(x, *self.aside) if self.aside else self.layer.state(x), x.new_zeros(())


def made(name, solves):
    torch.manual_seed(0)  # of buffers, too
    layer = LAYERS[name]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    module = State(layer, solves)
    x = testing.randn(*((8, 4) if module.aside else (3, *layer.input_shape)), dtype=torch.float64)
    weights = {key: part.detach() for key, part in module.named_parameters()}
    return (lambda given, x: torch.func.functional_call(module, given, (x,))), weights, x


@pytest.mark.parametrize("solves", [False, True], ids=["value", "solve"])
@pytest.mark.parametrize("name", LAYERS)
def test_many_sets_of_weights_at_once(name, solves):
    run, weights, x = made(name, solves)
    sets = {key: torch.stack([part, 0.9 * part]) for key, part in weights.items()}
    each = [{key: part[index] for key, part in sets.items()} for index in range(2)]

    def gradients(given):
        return torch.func.grad(lambda given: run(given, x)[0].square().sum())(given)

    values, bounds = torch.func.vmap(lambda given: run(given, x))(sets)
    slopes = torch.func.vmap(gradients)(sets)
    for index, given in enumerate(each):
        expected, _ = run(given, x)
        torch.testing.assert_close(values[index], expected, rtol=1e-7, atol=1e-8)
        assert (bounds[index] < 1e-6).all()
        for key, slope in gradients(given).items():
            torch.testing.assert_close(slopes[key][index], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_of_solves_are_those_of_values(name):
    run, weights, x = made(name, True)
    plain, _, _ = made(name, False)
    direction = testing.randn(*x.shape, dtype=x.dtype)

    def slopes(run):
        loss = lambda given, x: run(given, x)[0].square().sum()  # noqa: E731
        return (
            torch.func.grad(loss)(weights, x),
            torch.func.jvp(lambda x: run(weights, x)[0], (x,), (direction,))[1],
            torch.func.jvp(lambda given: run(given, x)[0], (weights,), (weights,))[1],
            torch.func.hessian(loss, argnums=1)(weights, x),
        )

    for found, expected in zip(slopes(run), slopes(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_many_inputs_at_once(name):
    run, weights, x = made(name, True)
    stacked = torch.stack([x, 2.0 * x, torch.zeros_like(x)])
    values, bounds = torch.func.vmap(lambda x: run(weights, x))(stacked)
    for given, value, bound in zip(stacked, values, bounds, strict=True):
        expected, _ = run(weights, given)
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-8)
        assert (bound < 1e-6).all()
