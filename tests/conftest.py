"""Settings of the whole suite."""

import sys
from pathlib import Path

import pytest
import torch

from wellposed.testing import use_environment

sys.path.insert(0, str(Path(__file__).parent))
use_environment()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def float32():
    """For tests that are about float32, whatever precision the suite runs in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)
