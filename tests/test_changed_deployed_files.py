"""Honest certificates of deployed files, changed at random and sealed anew: whatever is accepted claims no less than is true."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import onnx
import pytest
import torch

from harness.deployed_files import claim_of, forge, is_accepted, written
from test_deployed_checker import MODELS as DENSE
from test_deployed_checker_cells import MODELS as CELLS
from test_deployed_checker_images import MODELS as IMAGES

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32

MODELS = DENSE | CELLS | IMAGES
SUBJECTS = [
    ("mondeq", "2"),
    ("alone", "2"),
    ("bounded", "2"),
    ("feedthrough", "2"),
    ("nemon", "inf"),
    ("nemon", "1"),
    ("pcdeq", "2"),
    ("pcdeq", "inf"),
    ("sigmoid", "1"),
    ("deep", "2"),
    ("branches", "2"),
    ("image", "2"),
    ("image", "inf"),
    ("joint", "2"),
    ("residual", "2"),
    ("convolutions", "2"),
    ("image residual", "2"),
    ("kept zero", "2"),
    ("scaled", "2"),
    ("prescribed", "2"),
    ("channelwise", "2"),
    ("positive", "2"),
]
TRIALS = 60  # of each subject


def _array(rng, array):
    """An array changed in one of several ways; its shape and dtype may change too."""
    kind = rng.integers(10)
    flat = array.reshape(-1).copy()
    place = rng.integers(flat.size)
    if kind == 0:
        return (array * rng.choice([0.5, 0.9, 0.999, 1.001, 1.1, 2.0, -1.0])).astype(array.dtype)
    if kind == 1:
        flat[place] = 0
        return flat.reshape(array.shape)
    if kind == 2:
        flat[place] = (flat[place] * rng.choice([0.5, 0.99, 1.01, 3.0, -1.0])).astype(array.dtype)
        return flat.reshape(array.shape)
    if kind == 3 and array.ndim:
        return array[rng.permutation(len(array))]
    if kind == 4 and array.ndim == 2 and array.shape[0] == array.shape[1]:
        return array.T.copy()
    if kind == 5 and array.ndim > 1:
        return array[..., rng.permutation(array.shape[-1])]
    if kind == 6:
        return np.zeros_like(array)
    if kind == 7 and array.ndim:
        return array[: max(1, len(array) // 2)]
    if kind == 8 and array.ndim:
        return array[..., None]
    return (array + 1e-3 * np.abs(array).max() * rng.standard_normal(array.shape)).astype(array.dtype)


def _change_model(rng, model):
    nodes, numbers, kind = model.graph.node, model.graph.initializer, rng.integers(9)
    node = nodes[rng.integers(len(nodes))]
    if kind <= 3:
        tensor = numbers[rng.integers(len(numbers))]
        array = _array(rng, onnx.numpy_helper.to_array(tensor))
        tensor.raw_data = np.ascontiguousarray(array).tobytes()
        if rng.random() < 0.8:
            del tensor.dims[:]
            tensor.dims.extend(array.shape)
    elif kind == 4:
        first, second = (numbers[rng.integers(len(numbers))] for _ in range(2))
        first.raw_data, second.raw_data = second.raw_data, first.raw_data
    elif kind == 5:
        other = nodes[rng.integers(len(nodes))]
        place = rng.integers(len(node.input))
        node.input[place] = other.input[place % len(other.input)] if rng.random() < 0.5 else other.output[place % 2]
    elif kind == 6:
        for from_, to in (("relu", "tanh"), ("tanh", "relu"), ("SumOfTwo", "DifferenceOfTwo"), ("relu", "identity")):
            if from_ in node.op_type:
                from wellposed.deployed_checker.functions import called, function

                node.op_type = node.op_type.replace(from_, to)
                del model.functions[:]
                names = {name: 0 for part in nodes for name in called(part.op_type)}
                model.functions.extend(function(name) for name in names)
                return
    elif kind == 7:
        del nodes[rng.integers(len(nodes))]
    else:
        nodes.insert(int(rng.integers(len(nodes))), nodes.pop(int(rng.integers(len(nodes)))))


def _change_evidence(rng, tensors):
    names = sorted(tensors)
    if not names:
        tensors["1/sensitivity"] = rng.standard_normal(5)
        return
    name, other = (names[rng.integers(len(names))] for _ in range(2))
    kind = rng.integers(6)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif kind == 2:
        tensors[f"{rng.integers(6)}/{name.split('/')[1]}"] = tensors[name].copy()
    else:
        tensors[name] = np.ascontiguousarray(_array(rng, tensors[name]))


def _change_claim(rng, claim):
    kind, factor = rng.integers(5), rng.choice([0.5, 0.99, 1.0 - 1e-7, 1.01, 2.0])
    if kind <= 1:
        claim["lipschitz"] *= factor
    elif kind == 2 and claim["pairs"] is not None:
        claim["pairs"] = [[factor * value for value in row] for row in claim["pairs"]]
    elif kind == 3:
        claim["theorems"] = [str(part) for part in rng.choice(["product", "metric", "entrywise"], rng.integers(1, 4))]
    elif kind == 4:
        claim["norm"] = str(rng.choice(["1", "2", "inf"]))


def _smallest(folder, shape):
    """Claimed constants are no less than what differences of the values that a runtime computes show."""
    claim, (order, rng) = claim_of(folder), (float(claim_of(folder)["norm"]), np.random.default_rng(0))
    session = onnxruntime.InferenceSession(folder / "m.onnx")
    x = rng.standard_normal((64, *shape)).astype(np.float32)
    d = (0.05 * rng.standard_normal(x.shape) * (rng.random(x.shape) < 0.6)).astype(np.float32) + np.float32(1e-4)
    (first, error), (second, other) = (session.run(None, {"x": part}) for part in (x, x + d))
    apart, moved = (second.astype(float) - first).reshape(64, -1), (x + d).astype(float) - x
    size = np.linalg.norm(moved.reshape(64, -1), order, 1)
    good = np.isfinite(error) & np.isfinite(other)
    # Errors are bounded in the Euclidean norm, which sums of sizes exceed.
    lost = (error + other) * (apart.shape[1] ** 0.5 if claim["norm"] == "1" else 1.0)
    assert (np.linalg.norm(apart, order, 1) <= claim["lipschitz"] * size + lost)[good].all()
    if claim["pairs"] is not None:
        margins = np.abs(apart[:, :, None] - apart[:, None])
        allowed = np.array(claim["pairs"]) * size[:, None, None] + 1.5 * (error + other)[:, None, None]
        assert (margins <= allowed)[good].all()


@pytest.mark.parametrize(("name", "norm"), SUBJECTS)
def test_changed_files_that_are_accepted_claim_no_less_than_is_true(name, norm, tmp_path):
    torch.manual_seed(0)
    model, shape = MODELS[name]
    base, folder, counts = tmp_path / "honest", tmp_path / "changed", Counter()
    base.mkdir()
    written(model(), base, shape, norm=norm)
    before, same_model = claim_of(base), (base / "m.onnx").read_bytes()
    for trial in range(TRIALS):
        rng = np.random.default_rng([trial, len(name), SUBJECTS.index((name, norm))])
        shutil.copytree(base, folder, dirs_exist_ok=True)
        wanted = rng.permutation(3)[: rng.integers(1, 3)]
        try:
            forge(
                folder,
                (lambda claim, rng=rng: _change_claim(rng, claim)) if 0 in wanted else None,
                (lambda tensors, rng=rng: _change_evidence(rng, tensors)) if 1 in wanted else None,
                (lambda known, rng=rng: _change_model(rng, known)) if 2 in wanted else None,
            )
        except KeyError:  # no such function: nothing was changed
            counts["impossible"] += 1
            continue
        good = is_accepted(folder)
        counts["accepted" if good else "refused"] += 1
        if good:
            _smallest(folder, shape)
            claim = claim_of(folder)
            if claim["norm"] == norm and (folder / "m.onnx").read_bytes() == same_model:
                assert claim["lipschitz"] >= before["lipschitz"] * (1.0 - 1e-6)
    assert counts["refused"] >= TRIALS // 2 and counts["impossible"] <= TRIALS // 4, counts
    print(name, norm, dict(counts))
