"""Distances from a limit that are told by how iterates change: of linear iterations, whose limit and rates are known."""

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed.solvers.base import Window, distance_left

pytestmark = pytest.mark.float32

ROUNDING = np.zeros(1)


def told(rates, weights, steps, ago=None):
    """The told distance over the true one, of iterates Σ w·rᵏ with orthogonal modes and the limit zero."""
    modes = np.array(weights)[None] * np.array(rates)[None] ** np.arange(steps + 1)[:, None]
    changes = np.linalg.norm(np.diff(modes, axis=0), axis=1)
    window = None if ago is None else Window(torch.tensor([changes[-1 - ago]]), ago)
    found = distance_left(*(changes[[-1 - back]] for back in range(3)), ROUNDING, window)
    return float(found[0]) / float(np.linalg.norm(modes[-1]))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99])
def test_one_mode_is_told_exactly(rate):
    assert told([rate], [1.0], 6) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("steps", [20, 21])
def test_modes_that_shrink_by_turns_are_told_at_every_step(steps):
    assert 1.0 <= told([0.97, -0.97], [1.0, 0.02], steps) < 2.5
    # Norms cannot tell that changes turn: far too much, and never less.
    assert told([-0.97], [1.0], steps) == pytest.approx(1.97 / 0.03, rel=1e-6)


def test_the_slower_of_two_steps_and_of_many_counts():
    slow = np.array([1.0, 1.0 / 0.95, 1.0 / 0.95**2])  # as if it shrank by 0.95
    few = distance_left(*slow[:, None], ROUNDING)
    many = distance_left(*slow[:, None], ROUNDING, Window(torch.tensor([1.0 / 0.99**20], dtype=torch.float64), 20))
    faster = distance_left(*slow[:, None], ROUNDING, Window(torch.tensor([1.0 / 0.5**20], dtype=torch.float64), 20))
    assert few[0] == pytest.approx(19.0, rel=1e-6) and many[0] == pytest.approx(1.25 * 99.0, rel=1e-6)
    assert faster[0] == few[0]


def test_changes_that_do_not_shrink_are_far_from_the_limit():
    assert distance_left(np.ones(1), np.ones(1), np.ones(1), ROUNDING)[0] > 1e9
    assert distance_left(np.ones(1), np.ones(1), np.zeros(1), ROUNDING)[0] > 1e9
    assert distance_left(np.ones(1), np.full(1, 2.0), np.zeros(1), ROUNDING)[0] == pytest.approx(1.0)  # no third change
    small = np.full(1, 1e-9)
    assert distance_left(small, small, small, np.full(1, 1e-8)) == small


@pytest.mark.parametrize("width", [32, 100])
def test_forward_passes_of_disturbed_weights_keep_their_tolerance(width):
    """One change of the iterate told a third of the distance here, for one sample in fifty."""
    ratios = []
    for seed in range(3):
        torch.manual_seed(seed)
        layer = wp.LBEN(50, width)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter))
        exact = wp.LBEN(50, width, dtype=torch.float64, rtol=1e-9, atol=1e-9)
        exact.load_state_dict(layer.state_dict())
        x = 10.0 ** torch.empty(300, 1).uniform_(-1.0, 1.0) * torch.randn(300, 50)
        with torch.no_grad():
            evaluated, true = layer.eval()(x), exact.eval().solve(x.double()).value
        rtol, atol = layer.limits()
        for value in (evaluated, layer.train()(x).detach()):
            ratios.append((value - true).norm(dim=1) / (atol + rtol * true.norm(dim=1)))
    assert float(torch.cat(ratios).quantile(0.999)) <= 1.0 and float(torch.cat(ratios).max()) <= 3.0
