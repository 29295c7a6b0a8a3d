"""Products of matrices by oneDNN, against float64."""

import pytest
import torch
import torch.utils.flop_counter

import wellposed as wp
from wellposed.numerics import product as products
from wellposed.numerics.linear_algebra import accretive_inverse
from wellposed.numerics.product import added_product, product, subtracted_product

pytestmark = pytest.mark.float32

LARGE = torch.arange(600.0 * 600.0).reshape(600, 600).mul_(0.7).cos_()
LAYOUTS = {
    "rows": lambda rows, columns: LARGE.reshape(-1)[: rows * columns].reshape(rows, columns),
    "columns": lambda rows, columns: LARGE.reshape(-1)[: rows * columns].reshape(columns, rows).t(),
    "part": lambda rows, columns: LARGE[7 : 7 + rows, 5 : 5 + columns],
    "transposed part": lambda rows, columns: LARGE[7 : 7 + columns, 5 : 5 + rows].t(),
    "every second": lambda rows, columns: LARGE[: 2 * rows : 2, : 2 * columns : 2],
    "one row": lambda rows, columns: LARGE[:1, :columns].expand(rows, columns),
}
SIZES = ((180, 200, 190), (280, 290, 300), (1, 300, 250), (250, 300, 1), (3, 4, 5))


@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_a_product_is_right_in_every_layout(left, right):
    for rows, terms, columns in SIZES:
        a, b = LAYOUTS[left](rows, terms), LAYOUTS[right](terms, columns)
        added = torch.ones(rows, 1)
        exact, unit = a.double() @ b.double(), torch.finfo(torch.float32).eps
        limit = terms * unit * (a.double().abs() @ b.double().abs()) + unit * exact.abs()
        assert bool(((product(a, b) - exact).abs() <= limit).all())
        less = subtracted_product(torch.ones(rows, columns), a, b)
        assert bool(((less - (1.0 - exact)).abs() <= limit + 4.0 * unit * (1.0 + exact.abs())).all())
        assert bool(
            ((added_product(added, a, b) - (1.0 + exact)).abs() <= limit + 4.0 * unit * (1.0 + exact.abs())).all()
        )
    assert bool((added == 1.0).all())


def test_what_onednn_cannot_do_is_left_to_torch():
    a, b = LARGE[:200, :300], LARGE[:300, :200]
    assert products._pays(a, b) or products._LINEAR is None
    weight = a.clone().requires_grad_()
    product(weight, b).sum().backward()
    assert torch.allclose(weight.grad, b.sum(1).expand(200, 300), rtol=1e-5, atol=1e-4)
    assert product(a.double(), b.double()).dtype == torch.float64
    batched = torch.func.vmap(product, in_dims=(0, None))(torch.stack([a, 2.0 * a]), b)
    assert torch.allclose(batched[1], 2.0 * product(a, b), rtol=1e-4, atol=1e-3)
    tangent = torch.func.jvp(lambda m: product(m, b), (a,), (a,))[1]
    assert torch.allclose(tangent, product(a, b), rtol=1e-4, atol=1e-3)


def tangent_of_gradient(layer, x, name):
    """Of the gradient for a parameter, along that parameter's own numbers."""
    parameter = layer.get_parameter(name)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(parameter, parameter.detach().cos())
        value = torch.func.functional_call(layer, {name: dual}, (x,)).square().sum()
        (gradient,) = torch.autograd.grad(value, dual)
        return torch.autograd.forward_ad.unpack_dual(gradient).tangent


@pytest.mark.parametrize(("family", "name"), [(wp.MonDEQ, "constraint.A"), (wp.LBEN, "constraint.V")])
def test_forward_over_reverse_derivatives_of_wide_layers(family, name):
    torch.manual_seed(0)
    layer, x = family(50, 240, rtol=1e-6), torch.randn(120, 50)
    found = tangent_of_gradient(layer, x, name)
    expected = tangent_of_gradient(layer.double(), x.double(), name)
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_tangents_of_inverses():
    torch.manual_seed(0)
    matrix, along = 2.0 * torch.eye(400) + 0.02 * torch.randn(400, 400), torch.randn(400, 400)
    with torch.autograd.forward_ad.dual_level():
        found = torch.autograd.forward_ad.unpack_dual(
            accretive_inverse(torch.autograd.forward_ad.make_dual(matrix, along))
        ).tangent
    inverse = torch.linalg.inv(matrix.double())
    expected = -inverse @ along.double() @ inverse
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_tracing_counting_and_disabling_see_torchs_own_products():
    a, b = LARGE[:200, :300], LARGE[:300, :200]
    with pytest.raises(wp.InputError, match="would freeze"):
        torch.jit.trace(wp.MonDEQ(50, 240), torch.randn(120, 50))
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        product(a, b)
    assert counter.get_total_flops() == 2 * 200 * 300 * 200
    with torch.backends.mkldnn.flags(enabled=False):
        assert not products._pays(a, b)
    with pytest.raises(RuntimeError):
        product(a, LARGE[:301, :200])


def test_memory_does_not_grow_with_the_number_of_shapes(monkeypatch):
    monkeypatch.setattr(products, "_shapes", set())
    left = LARGE[:300, :300]
    used = [products._pays(left, LARGE[:300, : 200 + size]) for size in range(100)]
    assert sum(used) in (0, products._MOST_SHAPES)
    again = [products._pays(left, LARGE[:300, : 200 + size]) for size in range(100)]
    assert again == used


def test_a_wide_layer_has_the_values_and_gradients_of_float64():
    torch.manual_seed(0)
    layer, x = wp.MonDEQ(300, 280), torch.randn(64, 300)
    exact = wp.MonDEQ(300, 280, dtype=torch.float64, rtol=1e-11)
    exact.load_state_dict(layer.state_dict())
    outcomes = []
    for model, given in ((layer, x), (exact, x.double())):
        value = model(given)
        value.square().sum().backward()
        outcomes.append([value.detach(), *(parameter.grad for parameter in model.parameters())])
    for found, expected in zip(*outcomes, strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-3
