"""Certificates, verdicts and bounds are never worse than stored ones; `harness.golden` has the command that stores them."""

from __future__ import annotations

import copy

import pytest

from harness import golden

# Key: (how much more is allowed, relative and at most 1e-6; the proof that demands it).
LOOSENED: dict[str, tuple[float, str]] = {}


@pytest.fixture(scope="module")
def stored() -> golden.Values:
    return golden.read()


@pytest.mark.float32
def test_nothing_is_worse_than_it_was(stored):
    assert golden.violations(stored, golden.measure(stored), LOOSENED) == []


def test_every_model_is_stored_in_some_norm(stored):
    for name in golden.NAMES:
        assert any(key.startswith(f"{name}/") and key.endswith("lipschitz/upper") for key in stored)
        assert any(key.startswith(f"{name}/") and key.endswith("radii/lower") for key in stored)
    for name in golden.VERIFIED:
        kinds = {outcome for key, value in stored.items() if key.startswith(f"{name}/") for outcome in value}
        assert "certified" in kinds and len(kinds) > 1  # some verdict can be lost, and some gained


@pytest.mark.parametrize(
    "ending", ["lipschitz/upper", "pairs/upper", "radii/lower", "slope/lower", "outcomes", "labels"]
)
def test_a_worse_value_is_found(stored, ending):
    assert golden.violations(stored, stored, {}) == []
    for key in [key for key in stored if key.endswith(ending)][::7]:
        changed = copy.deepcopy(stored)
        values = changed[key]
        place = max(range(len(values)), key=lambda k: str(values[k]) if ending == "outcomes" else abs(values[k]))
        if ending == "outcomes":
            values[place] = "unknown" if values[place] != "unknown" else "certified"
            worse = stored[key][place] != "unknown"
        elif ending == "labels":
            values[place], worse = values[place] + 1, True
        else:
            values[place] *= 1.0 + (-3e-6 if key.endswith("lower") else 2e-9)
            worse = True
        found = golden.violations(stored, changed, {})
        assert len(found) == worse and all(message.startswith(key) for message in found)


def test_a_better_value_a_missing_one_and_no_number(stored):
    key = "mondeq/float64/inf/lipschitz/upper"
    for value, wrong in (([0.5 * stored[key][0]], 0), ([float("nan")], 1), ([float("inf")], 1), ([], 1)):
        assert len(golden.violations(stored, stored | {key: value}, {})) == wrong
    assert len(golden.violations(stored, {name: value for name, value in stored.items() if name != key}, {})) == 1
    key = "mondeq/float64/inf/radii/lower"
    assert len(golden.violations(stored, stored | {key: [float("nan")] * len(stored[key])}, {})) == len(stored[key])


def test_what_is_loosened_is_little_and_has_a_reason(stored):
    key = "mondeq/float64/inf/lipschitz/upper"
    more = stored | {key: [stored[key][0] * (1.0 + 5e-7)]}
    assert golden.violations(stored, more, {key: (1e-6, "an error that was not counted")}) == []
    assert len(golden.violations(stored, more, {})) == 1
    for loosened in ({key: (1e-3, "because")}, {key: (1e-6, "")}, {"no such key": (1e-6, "because")}):
        assert len(golden.violations(stored, stored, loosened)) == 1
