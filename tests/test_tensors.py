"""The tensors of tests follow the environment."""

from __future__ import annotations

import functools

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.testing.tensors import DEVICE_VARIABLE, DTYPE_VARIABLE


@pytest.fixture
def defaults():
    """Puts torch's defaults back."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    yield
    torch.set_default_dtype(dtype)
    torch.set_default_device(device if device.type != "cpu" else None)


MADE = {
    testing.randn: (3, 2), testing.rand: ((3, 2),), testing.eye: (3,), testing.zeros: (3,), testing.ones: (3, 2),
    testing.full: ((3,), 2.0), testing.tensor: ([1.0, 2.0],), testing.linspace: (0.0, 1.0, 3), testing.logspace: (0.0, 1.0, 3),
    testing.arange: (0.0, 3.0),
}  # fmt: skip


@pytest.mark.parametrize(("function", "arguments"), MADE.items())
@pytest.mark.usefixtures("defaults")
def test_precision_and_device_are_those_of_the_environment(function, arguments, monkeypatch):
    make = functools.partial(function, *arguments)
    for dtype in (torch.float64, torch.float32):
        monkeypatch.setenv(DTYPE_VARIABLE, str(dtype).removeprefix("torch."))
        testing.use_environment()
        assert make().dtype == dtype
        assert make(dtype=torch.float64).dtype == torch.float64
        assert wp.MonDEQ(3, 2).injection.weight.dtype == dtype
        assert make(requires_grad=True).is_leaf and make(requires_grad=True).requires_grad
    monkeypatch.setenv(DEVICE_VARIABLE, "meta")
    testing.use_environment()
    assert make().is_meta
    assert make(dtype=torch.float32).is_meta


@pytest.mark.usefixtures("defaults")
def test_other_precisions_are_refused(monkeypatch):
    monkeypatch.setenv(DTYPE_VARIABLE, "float16")
    with pytest.raises(wp.InputError, match=f"{DTYPE_VARIABLE}='float16'"):
        testing.use_environment()


def test_seeds_are_their_own_and_generators_go_on():
    torch.manual_seed(3)
    expected = torch.randn(4, device="cpu")
    torch.manual_seed(3)
    assert torch.equal(testing.randn(5, seed=1), testing.randn(5, generator=testing.generator(1)))
    assert torch.equal(testing.randn(4).cpu(), expected)
    source = testing.generator(2)
    assert not torch.equal(testing.rand(5, generator=source), testing.rand(5, generator=source))
    assert testing.randint(0, 7, (100,), seed=0).unique().tolist() == list(range(7))


def test_arrays_are_of_float64():
    found = testing.array(testing.randn(3, 2, requires_grad=True))
    assert found.dtype == "float64" and found.shape == (3, 2)
