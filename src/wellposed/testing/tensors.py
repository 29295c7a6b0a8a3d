"""What tests make their tensors with: one place decides where they live, and in which precision unless they say so.

The functions take what torch's functions of these names take. Precision and device are torch's defaults, which `use_environment`
reads from the environment. Random numbers are drawn on the CPU, so that they are the same on every device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import choices

DTYPE_VARIABLE = "WELLPOSED_TEST_DTYPE"
DEVICE_VARIABLE = "WELLPOSED_TEST_DEVICE"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def use_environment() -> None:
    """Make torch's default precision and device those of the environment, for a whole test run; call it in ``conftest.py``.

    ``WELLPOSED_TEST_DTYPE`` is float32 (where it is not set) or float64, ``WELLPOSED_TEST_DEVICE`` a device's name.

    Raises:
        InputError: the precision is another one.
    """
    dtype = os.environ.get(DTYPE_VARIABLE, "float32")
    choices(DTYPE_VARIABLE, dtype, tuple(_DTYPES))
    torch.set_default_dtype(_DTYPES[dtype])
    if DEVICE_VARIABLE in os.environ:  # where it is not set, nothing is: a default device costs time at every call
        torch.set_default_device(os.environ[DEVICE_VARIABLE])


def generator(seed: int = 0) -> torch.Generator:
    """A generator of random numbers for the functions of this module."""
    return torch.Generator(device="cpu").manual_seed(seed)


def _drawn(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, with a further option ``seed`` of a generator of its own."""

    def drawn(*shape: Any, seed: int | None = None, requires_grad: bool = False, **options: Any) -> Tensor:
        if seed is not None:
            options["generator"] = generator(seed)
        found = draw(*shape, device="cpu", **options).to(torch.get_default_device())
        return found.requires_grad_() if requires_grad else found

    return drawn


def _placed(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, on the default device unless another one is named."""

    def placed(*arguments: Any, device: torch.device | str | None = None, **options: Any) -> Tensor:
        return make(*arguments, device=torch.get_default_device() if device is None else device, **options)

    return placed


randn, rand, randint = _drawn(torch.randn), _drawn(torch.rand), _drawn(torch.randint)
zeros, ones, full, eye = _placed(torch.zeros), _placed(torch.ones), _placed(torch.full), _placed(torch.eye)
arange, linspace, logspace = _placed(torch.arange), _placed(torch.linspace), _placed(torch.logspace)
tensor = _placed(torch.tensor)


def array(values: Tensor) -> np.ndarray:
    """A tensor's numbers in numpy and float64, for oracles that share no code with torch."""
    return values.detach().cpu().double().numpy()
