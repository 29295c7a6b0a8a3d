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
