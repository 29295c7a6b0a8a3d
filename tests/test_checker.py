"""Certificates of deployed files: honest ones are accepted, forged ones are refused, changed files claim no less than is true."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from torch import nn

import wellposed as wp
from harness.deployed_files import (
    accepted,
    changed,
    claim_of,
    code_lines,
    forge,
    is_accepted,
    refused,
    run_alone,
    seal,
    slopes,
    stored,
    written,
)
from wellposed.checker import functions, main
from wellposed.errors import CertificateError, InputError

pytestmark = pytest.mark.float32


class Branched(nn.Module):
    """A sum and a difference of branches, one of them with an equilibrium."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 5), wp.MonDEQ(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        v = torch.relu(self.first(x))
        return self.third(v - self.second(x) + v)


MODELS = {
    "mondeq": (
        lambda: nn.Sequential(wp.Normalize((0.1,), (0.3,)), nn.Flatten(), wp.MonDEQ(16, 8), nn.Linear(8, 3)),
        (1, 4, 4),
    ),
    "channels": (
        lambda: nn.Sequential(wp.Normalize((0.1, 0.2), (0.3, 0.4)), nn.Flatten(), wp.MonDEQ(18, 4), nn.Linear(4, 3)),
        (2, 3, 3),
    ),
    "alone": (lambda: nn.Sequential(wp.MonDEQ(6, 5, activation="tanh")), (6,)),
    "lben": (lambda: nn.Sequential(wp.LBEN(6, 5), nn.Linear(5, 3)), (6,)),
    "bounded": (lambda: nn.Sequential(wp.LBEN(6, 5, gamma=2.0, out_features=3)), (6,)),
    "feedthrough": (lambda: nn.Sequential(wp.LBEN(6, 5, gamma=2.0, out_features=3, feedthrough=True)), (6,)),
    "two": (
        lambda: nn.Sequential(
            wp.LBEN(6, 5, gamma=1.0, out_features=4), wp.LBEN(4, 5, gamma=1.0, out_features=4), nn.Linear(4, 3)
        ),
        (6,),
    ),
    "nemon": (lambda: nn.Sequential(wp.NEMON(6, 5), nn.Linear(5, 3)), (6,)),
    "pcdeq": (lambda: nn.Sequential(wp.PcDEQ(6, 5, batch_norm=True), nn.Linear(5, 3)), (6,)),
    "sigmoid": (lambda: nn.Sequential(wp.PcDEQ(6, 5, activation="sigmoid", floor=0.0), nn.Linear(5, 3)), (6,)),
    "deep": (
        lambda: nn.Sequential(
            wp.Sandwich(6, 7),
            wp.SLL(7, 9),
            wp.Residual(7, 5),
            nn.Linear(7, 6),
            nn.BatchNorm1d(6),
            nn.Tanh(),
            wp.MonDEQ(6, 5),
            nn.ReLU(),
            nn.Linear(5, 3),
        ),
        (6,),
    ),
    "branches": (Branched, (6,)),
    "image": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            wp.GroupSort(),
            nn.AvgPool2d(2),
            nn.MaxPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(36, 3),
        ),
        (1, 8, 8),
    ),
}
IN_ALL_NORMS = ("mondeq", "channels", "alone", "lben", "nemon", "pcdeq", "sigmoid", "image")
EQUAL = ("mondeq", "channels", "alone", "lben", "bounded", "feedthrough", "nemon", "pcdeq", "sigmoid")
CASES = [(name, "2") for name in MODELS] + [(name, norm) for name in IN_ALL_NORMS for norm in ("inf", "1")]


@functools.cache
def original(name, norm, folder):
    torch.manual_seed(0)
    model, shape = MODELS[name]
    place = folder / f"{name}-{norm}"
    place.mkdir()
    return place, written(model(), place, shape, norm=norm)


@pytest.fixture
def honest(tmp_path, tmp_path_factory):
    """A function that gives a fresh copy of the files of a model, and its certificate."""
    base = tmp_path_factory.getbasetemp() / "originals"
    base.mkdir(exist_ok=True)

    def copied(name, norm="2"):
        place, certificate = original(name, norm, base)
        shutil.copytree(place, tmp_path, dirs_exist_ok=True)
        return tmp_path, certificate

    return copied


# What the checker loads for a dense network, without blank lines, comments and docstrings; and with the bodies of its functions.
LINES_OF_PROGRAM, LINES_IN_ALL = 722, 934


def body_lines(name):
    """How many lines the body of a function of the format has, where it is kept as data."""
    text = Path(functions.__file__).with_name("functions.txt").read_text(encoding="utf-8")
    kind, _, sigma = name.partition("_")
    wanted = f"{kind}_{{sigma}} (" if sigma else f"{name} ("
    start = text.index("\n" + wanted) + 1
    return text[start : text.index("\n}", start)].count("\n") + 2


class TestHonest:
    @pytest.mark.parametrize(("name", "norm"), CASES)
    def test_are_accepted_with_constants_that_hold(self, name, norm, honest):
        folder, certificate = honest(name, norm)
        lines = accepted(folder)
        claim = claim_of(folder)
        assert any("tolerance 0.001" in line for line in lines)
        assert claim["lipschitz"] <= certificate.lipschitz * (1.0 + 1e-6)
        whole, pairs = slopes(certificate.network, MODELS[name][1], norm)
        assert whole <= claim["lipschitz"]
        if claim["pairs"] is not None:
            assert (pairs <= np.array(claim["pairs"]) + 1e-12).all()
        if name in EQUAL:
            assert claim["lipschitz"] == pytest.approx(certificate.lipschitz, rel=1e-6)
        if name in EQUAL and certificate.pairs is not None:
            assert np.array(claim["pairs"]) == pytest.approx(certificate.pairs.numpy(), rel=1e-6)

    def test_parts_in_metrics_count_in_chains_and_branches(self, honest):
        for name in ("two", "deep", "branches"):
            folder, certificate = honest(name)
            assert claim_of(folder)["lipschitz"] < 0.95 * certificate.lipschitz

    @pytest.mark.parametrize("name", ["mondeq", "nemon", "pcdeq"])
    def test_smaller_claims_are_refused(self, name, honest):
        folder, _ = honest(name)
        forge(folder, lambda claim: claim.update(lipschitz=claim["lipschitz"] * (1.0 - 1e-6)))
        refused(folder, "is claimed")
        folder, _ = honest(name)
        forge(folder, lambda claim: claim["pairs"][0].__setitem__(1, claim["pairs"][0][1] * (1.0 - 1e-6)))
        refused(folder, "pairs")

    def test_a_copy_of_the_folder_runs_alone(self, honest):
        folder, _ = honest("mondeq")
        done = run_alone(folder)
        assert done.returncode == 0 and "foreign []" in done.stdout and "the certificate holds" in done.stdout, (
            done.stderr
        )
        files = next(line for line in done.stdout.splitlines() if line.startswith("files")).split()[1:]
        program = sum(map(code_lines, files))
        bodies = sum(map(body_lines, (part.name for part in onnx.load(folder / "m.onnx").functions)))
        assert program <= LINES_OF_PROGRAM and program + bodies <= LINES_IN_ALL, (program, bodies)
        forge(folder, lambda claim: claim.update(lipschitz=0.1))
        shutil.rmtree(folder / "checker")
        assert run_alone(folder).returncode == 1

    def test_output_that_nobody_takes_is_no_success_and_no_traceback(self, honest):
        folder, _ = honest("mondeq")
        words = [sys.executable, "-m", "wellposed.checker", str(folder / "c.json"), str(folder / "m.onnx")]
        with open("/dev/full", "w") as full:
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1 and not done.stderr
        code = f"import os, sys; os.close(1); os.execv(sys.executable, {words!r})"
        done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0 and not done.stderr  # every check held, and there is nobody to tell

    @pytest.mark.parametrize("change", ["padded", "metadata"])
    def test_evidence_has_one_form(self, change, honest):
        folder, _ = honest("mondeq")
        file = folder / "c.safetensors"
        if change == "padded":
            data = file.read_bytes()
            size = int.from_bytes(data[:8], "little")
            file.write_bytes((size + 80).to_bytes(8, "little") + data[8 : 8 + size] + b" " * 80 + data[8 + size :])
        else:
            tensors = safetensors.numpy.load_file(file)
            file.write_bytes(safetensors.numpy.save(tensors, metadata={"unused": "words"}))
        claim = claim_of(folder)
        claim["evidence"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        seal(folder, claim)
        refused(folder, "written")

    def test_wrong_usage_is_told(self, capsys):
        assert main([]) == 2 and "usage" in capsys.readouterr().err

    def test_another_file_than_that_of_the_certificate_is_not_certified(self, honest):
        from wellposed.deployment import certify_file

        folder, certificate = honest("mondeq")
        forge(folder, model=lambda model: changed(stored(model, "weight"), lambda part: 2 * part))
        with pytest.raises(CertificateError, match="another network"):
            certify_file(certificate, folder / "m.onnx", folder / "d.json")
        with pytest.raises((CertificateError, InputError)):
            certify_file(certificate, folder / "none.onnx", folder / "d.json")


def drop(name):
    return lambda claim: claim.pop(name)


class TestLowerBounds:
    @pytest.mark.parametrize(
        ("name", "norm"), [(name, "2") for name in MODELS if name != "image"] + [("nemon", "inf"), ("pcdeq", "1")]
    )
    def test_are_proved_by_two_inputs(self, name, norm, tmp_path):
        torch.manual_seed(0)
        model, shape = MODELS[name]
        certificate = written(model(), tmp_path, shape, norm=norm, inputs=torch.randn(6, *shape))
        claim = claim_of(tmp_path)
        assert any("two inputs prove" in line for line in accepted(tmp_path))
        assert claim["lower_bound"] == pytest.approx(certificate.lower_bound, rel=1e-4)
        forge(tmp_path, lambda claim: claim.update(lower_bound=claim["lower_bound"] * (1.0 + 1e-3)))
        refused(tmp_path, "lower bound")
        forge(tmp_path, lambda claim: claim.update(lower_bound=None))
        refused(tmp_path, "unused")

    def test_other_states_or_inputs_prove_less(self, tmp_path):
        torch.manual_seed(0)
        model, shape = MODELS["mondeq"]
        written(model(), tmp_path, shape, inputs=torch.randn(6, *shape))
        for name in ("4/states", "witness/points"):
            backup = (tmp_path / "c.safetensors").read_bytes(), (tmp_path / "c.json").read_bytes()
            forge(tmp_path, evidence=lambda tensors, n=name: tensors[n][1].__imul__(1.5))
            refused(tmp_path, "lower bound")
            (tmp_path / "c.safetensors").write_bytes(backup[0])
            (tmp_path / "c.json").write_bytes(backup[1])

    def test_are_left_out_where_nothing_follows_the_inputs(self, tmp_path):
        torch.manual_seed(0)
        model, shape = MODELS["image"]
        certificate = written(model(), tmp_path, shape, inputs=torch.randn(6, *shape))
        accepted(tmp_path)
        assert certificate.lower_bound > 0.0 and claim_of(tmp_path)["lower_bound"] is None


CLAIMS = {
    "keys": drop("lower_bound"),
    "more keys": lambda c: c.update(blocks=[]),
    "format": lambda c: c.update(format="wellposed-certificate/5"),
    "norm": lambda c: c.update(norm="3"),
    "other norm": lambda c: c.update(norm="1"),
    "largest norm": lambda c: c.update(norm="inf"),
    "text": lambda c: c.update(lipschitz="9e9"),
    "true": lambda c: c.update(lipschitz=True),
    "null": lambda c: c.update(lipschitz=None),
    "negative": lambda c: c.update(lipschitz=-1.0),
    "large": lambda c: c.update(lipschitz=1e300),
    "none": lambda c: c.update(theorems=[]),
    "theorems": lambda c: c.update(theorems=["product", "lucky"]),
    "twice": lambda c: c.update(theorems=["product", "product", "metric"]),
    "fewer": lambda c: c.update(theorems=["product"]),
    "entrywise": lambda c: c.update(theorems=["entrywise"]),
    "pairs": lambda c: c.update(pairs=[[0.0, 9e9]]),
    "pairs of text": lambda c: c.update(pairs=[["0"] * 3] * 3),
    "fewer pairs": lambda c: c.update(pairs=[[0.0, 9e9], [9e9, 0.0]]),
    "lower": lambda c: c.update(lower_bound=c["lipschitz"] * 2),
    "lower bound without inputs": lambda c: c.update(lower_bound=0.1),
    "model": lambda c: c.update(model_sha256="0" * 64),
    "digest": lambda c: c["evidence"].update(sha256="0" * 64),
    "evidence": lambda c: c.update(evidence={"file": "c.safetensors"}),
    "absolute": lambda c: c["evidence"].update(file="/dev/zero"),
    "parent": lambda c: c["evidence"].update(file="../c.safetensors"),
    "dots": lambda c: c["evidence"].update(file=".."),
    "nothing": lambda c: c["evidence"].update(file=""),
}


class TestClaims:
    @pytest.mark.parametrize("name", CLAIMS)
    def test_other_claims_are_refused(self, name, honest):
        folder, _ = honest("mondeq")
        forge(folder, CLAIMS[name])
        assert not is_accepted(folder)

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace('"norm": "2"', '"norm": "2", "norm": "2"'),
            lambda text: text.replace('"lower_bound": null', '"lower_bound": NaN'),
            lambda text: text.replace('"lipschitz": ', '"lipschitz": 1'),
            lambda text: text[:-1],
            lambda text: "[]",
            lambda text: "[" * 100000,
            lambda text: text.replace('"lipschitz": ', '"lipschitz": Infinity, "x": '),
            lambda text: "1" * 5000,
        ],
    )
    def test_files_that_are_no_such_claims_are_refused(self, change, honest):
        folder, _ = honest("mondeq")
        text = (folder / "c.json").read_text()
        (folder / "c.json").write_text(change(text).replace("0" * 5000, ""))
        assert not is_accepted(folder)

    def test_keys_that_occur_twice_are_refused_under_a_right_digest(self, honest):
        folder, _ = honest("mondeq")
        text = json.dumps(claim_of(folder), indent=1)
        for again in ("1.0", str(claim_of(folder)["lipschitz"])):
            (folder / "c.json").write_text(text.replace('"theorems"', f'"lipschitz": {again},\n "theorems"', 1))
            refused(folder, "written as the format says")
        (folder / "c.json").write_text(text)
        accepted(folder)

    def test_evidence_is_a_regular_file(self, honest):
        folder, _ = honest("mondeq")
        (folder / "c.safetensors").rename(folder / "d.safetensors")
        (folder / "c.safetensors").symlink_to(folder / "d.safetensors")
        refused(folder, "files")
        (folder / "c.safetensors").unlink()
        (folder / "c.safetensors").mkdir()
        refused(folder, "files")

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.pop("4/sensitivity"),
            lambda t: t.update(more=np.zeros(3)),
            lambda t: t.update({"4/sensitivity": -t["4/sensitivity"]}),
            lambda t: t.update({"4/sensitivity": t["4/sensitivity"].astype(np.float32)}),
            lambda t: t["5/values"].__setitem__(0, 1e-3),
            lambda t: t.update({"5/multipliers": t["5/multipliers"][:1]}),
            lambda t: t["5/multipliers"].__setitem__((0, 0), np.nan),
            lambda t: t.update({"5/multipliers": t["5/multipliers"][:, :, None]}),
            lambda t: t["5/multipliers"].__imul__(3.0),
            lambda t: t.update({"1/values": t["5/values"], "1/multipliers": t["5/multipliers"]}),
        ],
    )
    def test_other_evidence_is_refused(self, change, honest):
        folder, _ = honest("mondeq")
        forge(folder, evidence=change)
        assert not is_accepted(folder)


def rename(model, old, new):
    """Rename a function where it is used, with the function itself."""
    from wellposed.checker.functions import called, function

    for node in model.graph.node:
        if node.op_type == old:
            node.op_type = new
    del model.functions[:]
    model.functions.extend(function(name) for name in {n: 0 for node in model.graph.node for n in called(node.op_type)})


def swap_errors(model):
    node = next(node for node in model.graph.node if node.op_type == "SumOfTwo")
    node.input[1], node.input[3] = node.input[3], node.input[1]


def node_of(model, words):
    return next(node for node in model.graph.node if words in node.op_type)


def set_raw(model, words, array):
    tensor = stored(model, words)
    tensor.raw_data, tensor.data_type = array.tobytes(), onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    del tensor.dims[:]
    tensor.dims.extend(array.shape)


def typed_fields(model):
    tensor = stored(model, "weight")
    values = onnx.numpy_helper.to_array(tensor).ravel()
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values)


def outside(model):
    tensor = stored(model, "weight")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "elsewhere.bin"


def body(model, function, change):
    found = next(part for part in model.functions if part.name == function)
    change(found)


MODEL_FORGERIES = {
    "ir version": lambda m: setattr(m, "ir_version", 9),
    "opset": lambda m: setattr(m.opset_import[0], "version", 19),
    "another import": lambda m: m.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1)),
    "operator": lambda m: m.graph.node.insert(2, onnx.helper.make_node("Relu", ["value_1"], ["r"])),
    "domain": lambda m: setattr(m.graph.node[2], "domain", "other"),
    "unknown": lambda m: setattr(m.graph.node[2], "op_type", "Shrunk"),
    "attribute": lambda m: m.graph.node[3].attribute.append(onnx.helper.make_attribute("a", 1)),
    "name": lambda m: setattr(m.graph.node[3], "name", "n"),
    "overload": lambda m: setattr(m.graph.node[3], "overload", "o"),
    "doc": lambda m: setattr(m.graph, "doc_string", "d"),
    "metadata": lambda m: m.metadata_props.add(key="k", value="v"),
    "training": lambda m: m.training_info.add(),
    "overloaded function": lambda m: setattr(m.functions[0], "overload", "o"),
    "function doc": lambda m: setattr(m.functions[0], "doc_string", "d"),
    "function import": lambda m: setattr(m.functions[0].opset_import[0], "version", 18),
    "function dropped": lambda m: m.functions.pop(),
    "function twice": lambda m: m.functions.append(m.functions[0]),
    "function more": lambda m: m.functions.append(
        onnx.helper.make_function(
            "wellposed", "F", ["x"], ["y"], [onnx.helper.make_node("Relu", ["x"], ["y"])], m.opset_import
        )
    ),
    "another body": lambda m: body(m, "Linear", lambda f: setattr(f.node[-1], "op_type", "Sub")),
    "another bound": lambda m: body(m, "Linear", lambda f: f.node[0].attribute[0].t.double_data.__setitem__(0, 0.0)),
    "typed fields": typed_fields,
    "outside": outside,
    "initialiser as input": lambda m: m.graph.input.append(
        onnx.helper.make_tensor_value_info(stored(m, "weight").name, 1, [8, 16])
    ),
    "unused number": lambda m: m.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "more")),
    "number twice": lambda m: m.graph.initializer.append(m.graph.initializer[0]),
    "sparse": lambda m: m.graph.sparse_initializer.add(),
    "shadow": lambda m: m.graph.node[2].output.__setitem__(0, "value_1"),
    "value info": lambda m: m.graph.value_info.append(m.graph.output[0]),
    "output more": lambda m: m.graph.output.append(onnx.helper.make_tensor_value_info("value_3", 11, ["batch", 8])),
    "output renamed": lambda m: setattr(m.graph.output[0], "name", "value_3"),
    "outputs swapped": lambda m: m.graph.output.reverse(),
    "dead node": lambda m: m.graph.node.insert(
        3, onnx.helper.make_node("Linear", list(m.graph.node[3].input), ["v", "w"], domain="wellposed")
    ),
    "dangling": lambda m: m.graph.node[3].input.__setitem__(0, "nowhere"),
    "empty": lambda m: m.graph.node[3].input.__setitem__(3, ""),
    "fewer inputs": lambda m: m.graph.node[3].input.pop(),
    "more inputs": lambda m: m.graph.node[3].input.append(m.graph.initializer[0].name),
    "order": lambda m: m.graph.node.insert(0, m.graph.node.pop()),
    "input shape": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2),
    "fixed batch": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
    "free extent": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_param", "n"),
    "input type": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 11),
    "nan": lambda m: changed(stored(m, "bias"), lambda a: a * np.nan),
    "subnormal": lambda m: changed(stored(m, "bias"), lambda a: a * 0 + 1e-40),
    "infinite": lambda m: changed(stored(m, "weight"), lambda a: a + np.inf),
    "short": lambda m: setattr(stored(m, "weight"), "raw_data", stored(m, "weight").raw_data[:-4]),
    "dims": lambda m: stored(m, "weight").dims.append(1),
    "double": lambda m: set_raw(m, "weight", np.zeros((8, 16))),
    "W as vector": lambda m: set_raw(m, ".W", np.zeros(64, np.float32)),
    "std": lambda m: changed(stored(m, "std"), lambda a: -a),
    "std zero": lambda m: changed(stored(m, "std"), lambda a: 0 * a),
    "std doubled": lambda m: changed(stored(m, "std"), lambda a: a / 2),
    "sensitivity": lambda m: changed(stored(m, "sensitivity"), lambda a: a * 0.99),
    "step of other functions": lambda m: (
        changed(stored(m, "step"), lambda a: a * 2 + 5),
        rename(m, "ReflectedEquilibrium_relu", "ReflectedEquilibrium_tanh"),
    ),
    "step zero": lambda m: changed(stored(m, "step"), lambda a: 0 * a),
    "tolerance": lambda m: changed(stored(m, "tolerance"), lambda a: -a),
    "limit": lambda m: changed(stored(m, "limit"), lambda a: -a),
    "slopes beyond one": lambda m: rename(m, "ReflectedEquilibrium_relu", "ReflectedEquilibrium_silu"),
    "W scaled": lambda m: changed(stored(m, ".W"), lambda a: a + 0.01),
    "U scaled": lambda m: changed(stored(m, "_3.weight"), lambda a: 1.01 * a),
    "head scaled": lambda m: changed(stored(m, "_5.weight"), lambda a: 1.01 * a),
    "shape": lambda m: changed(stored(m, "to"), lambda a: a[::-1]),
    "positive": lambda m: setattr(m.graph.node[4], "op_type", "PositiveEquilibrium_relu"),
    "normalise last": lambda m: m.graph.node.insert(1, m.graph.node.pop(2)),
}


class TestModels:
    @pytest.mark.parametrize("name", MODEL_FORGERIES)
    def test_other_files_are_refused(self, name, honest):
        folder, _ = honest("mondeq")
        before = (folder / "m.onnx").read_bytes()
        forge(folder, model=MODEL_FORGERIES[name])
        assert (folder / "m.onnx").read_bytes() != before
        assert not is_accepted(folder)

    @pytest.mark.parametrize(
        "name", ["", "x", "logits", "error_2", "_inlfunc_Linear_product", "Linear_3.weight\n", "tolerance2"]
    )
    def test_numbers_are_named_like_nothing_else(self, name, honest):
        folder, _ = honest("mondeq")

        def change(model):
            tensor = stored(model, "bias")
            for node in model.graph.node:
                for place, given in enumerate(node.input):
                    node.input[place] = name if given == tensor.name else given
            tensor.name = name

        forge(folder, model=change)
        refused(folder, "names: ")

    def test_bytes_behind_the_model_are_refused(self, honest):
        folder, _ = honest("mondeq")
        data = (folder / "m.onnx").read_bytes() + b"\xa2\x1f\x01\x00"  # an unknown field
        (folder / "m.onnx").write_bytes(data)
        seal(folder, {**claim_of(folder), "model_sha256": hashlib.sha256(data).hexdigest()})
        assert not is_accepted(folder)

    def test_bounds_of_errors_belong_to_their_values(self, honest):
        folder, _ = honest("branches")
        forge(folder, model=swap_errors)
        refused(folder, "bound of the error")

    def test_windows_are_regular(self, honest):
        for change in (
            lambda a: np.roll(a, 1, 0),
            lambda a: 0 * a,
            lambda a: a + 64,
            lambda a: np.sort(a, axis=None).reshape(a.shape),
        ):
            for place, kind in ((1, "Convolution"), (3, "AveragePooling"), (4, "MaximumPooling")):
                folder, _ = honest("image")
                forge(folder, model=lambda m, k=kind, p=place, c=change: changed(stored(m, f"{k}_{p}.index"), c))
                assert not is_accepted(folder), (kind, place)

    def test_options_that_bounds_of_errors_rely_on_are_proved(self, honest):
        for name, words, change in (
            ("image", "overlap", lambda a: a * 0.5),
            ("pcdeq", "epsilon", lambda a: 0 * a),
            ("pcdeq", "variance", lambda a: a - 9),
            ("pcdeq", ".floor", lambda a: a * 0.0),
            ("pcdeq", "lowest", lambda a: a * 2),
            ("pcdeq", "sensitivity", lambda a: a * 0.999),
            ("pcdeq", ".W", lambda a: -a),
            ("pcdeq", ".W", lambda a: a * 3),
            ("sigmoid", "lowest", lambda a: a + 1),
        ):
            folder, _ = honest(name)
            forge(folder, model=lambda m, w=words, c=change: changed(stored(m, w), c))
            assert not is_accepted(folder), (name, words)

    def test_positive_equilibria_follow_a_positive_part(self, honest):
        folder, _ = honest("pcdeq")

        def change(model):
            node = node_of(model, "PositivePart")
            node.input.pop()
            rename(model, "PositivePart", "Activation_identity")

        forge(folder, model=change)
        refused(folder, "not used")
        folder, _ = honest("sigmoid")
        forge(folder, model=lambda m: rename(m, "Activation_relu", "Activation_identity"))
        refused(folder, "floor")
        folder, _ = honest("sigmoid")
        forge(folder, model=lambda m: rename(m, "PositiveEquilibrium_sigmoid", "PositiveEquilibrium_tanh"))
        refused(folder, "floor")
