"""Arguments that nothing can be done with are refused by the library's own errors, which name them; made from the signatures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wellposed as wp
from harness.unusable import (
    MODULES,
    NOT_CALLED,
    SUBJECTS,
    calls,
    must_be_refused,
    names,
    refusal,
    valid_call,
    without_values,
)  # fmt: skip
from wellposed import testing

pytestmark = pytest.mark.float32
NEED_MORE = {"train", "load_graphs", "auto_attack"}  # time, or files
SLOW = {("certify", "norm"), ("train", "model")}  # of which usable values are tried elsewhere


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Files go to a folder of the test, and nothing is fetched."""
    monkeypatch.chdir(tmp_path)

    def offline(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("WELLPOSED_DATA", str(tmp_path))


def test_every_public_callable_has_a_valid_call():
    assert len(SUBJECTS) > 100 and {"train", "save", "worst_logits", "load_file", "NEMONFamily"} <= set(SUBJECTS)
    assert {name: missing for name in SUBJECTS if (missing := without_values(name))} == {}
    known = {*vars(wp), *wp.__all__, *(name for module in MODULES for name in vars(module))}
    assert known >= NOT_CALLED and not NOT_CALLED & set(SUBJECTS)


@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name not in NEED_MORE])
def test_valid_calls_are_taken(subject):
    valid_call(subject)


@pytest.mark.parametrize("all_values", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name != "train"])
def test_an_unusable_argument_is_named(subject, all_values):
    for call in calls(subject, all_values=all_values):
        if (call.subject, call.argument) in SLOW:
            continue
        said = refusal(call)
        if said is None:
            assert not must_be_refused(call), call
        else:
            assert names(call, said) and "\n" not in said and " object at 0x" not in said, (call, said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.5}, "epochs=1.5: must be an integer"), ({"epochs": 0}, "epochs=0"), ({"batch_size": "x"}, "batch_size='x'"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"), ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"validation": 1.0}, "validation=1.0"), ({"patience": -1}, "patience=-1"), ({"seed": -1}, "seed=-1"),
        ({"task": "x"}, "task='x'"), ({"loss": 3}, "loss=3"), ({"epoch": 3}, "no option 'epoch'"),
    ],
)  # fmt: skip
def test_training_names_what_it_cannot_use(changes, message):
    x = testing.randn(20, 3).float()
    with pytest.raises(wp.WellposedError, match=message):
        wp.train(nn.Linear(3, 2), (x, torch.arange(20) % 2), **changes)


class _Cell(nn.Module):
    def forward(self, z, x):
        return 0.5 * torch.tanh(z) + x


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3,), (4,)), "does not take states of shape"), (((3,), (1,)), r"block gives \(2, 3\)"),
        (((0,), None), "must be positive"),
        ((("x",), None), "input_shape"), ((3, None), "input_shape=3"),
    ],
)  # fmt: skip
def test_shapes_that_a_block_does_not_take(shapes, message):
    with pytest.raises(wp.InputError, match=message):
        wp.wrap(_Cell(), shapes[0], state_shape=shapes[1])
    block = _Cell().train()
    wp.wrap(block, (3,))
    assert block.training


def test_solves_of_tensors_without_numbers_are_refused():
    with pytest.raises(wp.InputError, match="z0.device"):
        wp.fixed_point(torch.cos, torch.zeros(2, device="meta"))


HALF = {
    "OrthogonalDEQ": lambda: wp.OrthogonalDEQ(4, 6), "ConvMonDEQ": lambda: wp.ConvMonDEQ(1, 2, (1, 4)),
    "ConvOrthogonalDEQ": lambda: wp.ConvOrthogonalDEQ(1, 2, (1, 4)), "Sandwich": lambda: wp.Sandwich(4, 6),
    "OrthogonalLinear": lambda: wp.OrthogonalLinear(4, 6), "SLL": lambda: wp.SLL(4), "LBEN": lambda: wp.LBEN(4, 6),
    "bjorck": lambda: wp.OrthogonalLinear(4, 6, parametrisation="bjorck"),
    "OrthogonalConv2d": lambda: wp.OrthogonalConv2d(1, 2, (1, 4)), "NEMON": lambda: wp.NEMON(4, 6),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", HALF.values(), ids=HALF)
def test_weights_of_half_precision_are_refused(make, dtype):
    layer = make().to(dtype)
    x = torch.zeros(3, *getattr(layer, "input_shape", (4,)), dtype=dtype)
    x = x.reshape(3, 1, 1, 4) if isinstance(layer, wp.OrthogonalConv2d) else x
    for call in (layer, getattr(layer, "solve", layer)):
        with pytest.raises(wp.InputError, match="dtype=.*autocast"):
            call(x)


def test_constants_of_weights_of_half_precision_are_refused_by_name():
    with pytest.raises(wp.InputError, match="dtype=torch.float16"):
        wp.LBEN(4, 6, gamma=1.0, out_features=2, feedthrough=True).half().lipschitz()
