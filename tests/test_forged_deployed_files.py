"""Forged certificates of deployed files, of the kinds that an earlier checker believed: each says something false."""

from __future__ import annotations

import os
import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.deployed_files import accepted, changed, claim_of, forge, is_accepted, refused, stored, written
from wellposed.checker import main
from wellposed.checker.functions import called, function
from wellposed.cli.main import run
from wellposed.falsification.deployed.reference import Reference

pytestmark = pytest.mark.float32


def require_refused(folder, words=""):
    """Refused in the process, by the checker's own command, and by that of the library."""
    refused(folder, words)
    files = [str(folder / name) for name in ("c.json", "m.onnx")]
    assert main(files) == 1
    assert run(["verify", *files]) in (1, 2)  # 2 where a digest already tells that a file is not what was written


def true_constant(folder, norm):
    """Of a file whose function is linear."""
    reference = Reference(onnx.load(folder / "m.onnx"))
    x = torch.zeros(1, *reference.input_shape, dtype=torch.float64)
    return float(torch.linalg.matrix_norm(reference.jacobians(x)[0], float(norm)))


def set_number(model, words, value):
    changed(stored(model, words), lambda array: array * 0.0 + value)


class TestNumbersNearOnesThatAreStored:
    """Matrices within the rounding of how the weights were formed, which is many times what is left to a singular one."""

    @pytest.mark.parametrize("norm", ["inf", "1"])
    def test_vectors_of_a_matrix_nearby(self, norm, tmp_path):
        torch.manual_seed(0)
        layer = wp.NEMON(3, 3, mu=0.99, activation="identity")
        with torch.no_grad():
            layer.constraint.T.copy_(300.0 * torch.rand(3, 3))
            layer.constraint.slack.fill_(-30.0)
            layer.constraint.log_weights.zero_()
            layer.injection.weight.copy_(torch.eye(3))
        written(nn.Sequential(layer), tmp_path, (3,), norm=norm)
        claim, true = claim_of(tmp_path), true_constant(tmp_path, norm)
        assert claim["lipschitz"] >= true * (1.0 - 1e-9)
        weight = layer.operator().matrix().detach().double().numpy()
        nearby = weight - np.diag(5e-5 * np.abs(weight).sum(1))
        system = np.diag(1.0 - np.diagonal(nearby)) - np.abs(nearby - np.diag(np.diagonal(nearby)))
        wanted = np.concatenate([np.ones((3, 1)), np.ones((3, 1)) if norm == "inf" else np.eye(3)], 1)
        moved = np.linalg.solve(system, wanted) * (1.0 + 1e-9)
        small = float(moved[:, 1:].sum(0).max() if norm == "1" else moved.max()) * (1.0 + 1e-6)
        assert small < 0.5 * true

        def evidence(tensors):
            for name in [part for part in tensors if part.split("/")[1] in ("values", "multipliers", "shares")]:
                del tensors[name]
            place = next(name for name in tensors if name.endswith("sensitivity")).split("/")[0]
            tensors[f"{place}/moved"] = moved

        forge(tmp_path, lambda c: c.update(lipschitz=small, pairs=None, theorems=["entrywise"]), evidence)
        require_refused(tmp_path, "entrywise")

    @pytest.mark.parametrize("kappa", [0.99, 0.9999])
    def test_a_norm_below_one(self, kappa, tmp_path):
        """W = κQ, Q orthogonal: a thousandth less of it would prove a fraction of the constant."""
        layer = wp.MonDEQ(4, 4, m=1.0 - kappa, activation="identity")
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
            layer.injection.weight.copy_(torch.eye(4))
        written(nn.Sequential(layer), tmp_path, (4,))
        true, lower = true_constant(tmp_path, "2"), 1.0 / (1.0 - kappa * 0.999)
        assert lower < 0.95 * true
        for new in (lambda model: set_number(model, "sensitivity", lower), None):

            def evidence(tensors):
                for name in tensors:
                    if name.endswith("sensitivity") or name.endswith("multipliers"):
                        tensors[name] = np.full_like(tensors[name], lower)
                    elif name.endswith("values"):
                        tensors[name][0] = lower

            forge(tmp_path, lambda claim: claim.update(lipschitz=lower * 1.001, pairs=None), evidence, new)
            require_refused(tmp_path, "sensitivity")
        # The factors of the iteration may be any: they prove nothing.
        forge(tmp_path, model=lambda model: changed(stored(model, "reflect"), lambda array: 0.5 * array))
        require_refused(tmp_path)

    def test_a_matrix_with_a_margin_of_safety_to_itself(self, tmp_path):
        layer, size = wp.MonDEQ(2, 2, m=0.01, activation="identity"), 30.0
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
            layer.injection.weight.copy_(torch.eye(2))
            layer.constraint.A.copy_(torch.tensor([[size, size], [0.0, 0.0]]))
        written(nn.Sequential(layer), tmp_path, (2,))
        weight = layer.operator().matrix().detach().double().numpy()
        shifted = weight - 1e-3 * np.array([[1.0, -1.0], [-1.0, 1.0]])
        displaced = np.eye(2) - shifted
        small = 1.0 / float(np.linalg.eigvalsh(0.5 * (displaced + displaced.T))[0])
        assert small < true_constant(tmp_path, "2") / 1.15

        def evidence(tensors):
            for name in tensors:
                tensors[name] = np.full_like(tensors[name], small)

        forge(
            tmp_path,
            lambda claim: claim.update(lipschitz=small * (1.0 + 1e-9), pairs=None),
            evidence,
            lambda model: set_number(model, "sensitivity", small),
        )
        require_refused(tmp_path, "sensitivity")


def flat():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def put_number(model, name, array):
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))


def with_functions(model):
    del model.functions[:]
    names = {name: None for node in model.graph.node for name in called(node.op_type)}
    model.functions.extend(function(name) for name in names)


def less(factor):
    """A claim of a fraction."""

    def change(claim):
        claim["lipschitz"] *= factor
        claim["pairs"] = (
            None if claim["pairs"] is None else [[factor * value for value in row] for row in claim["pairs"]]
        )

    return change


class TestOptions:
    """What decides constants is in the model's file alone, and is checked and printed."""

    @pytest.mark.parametrize("instead", [True, False])
    @pytest.mark.parametrize(
        "index", [np.zeros((8, 4096)), np.arange(8)[:, None].repeat(4096, 1), np.arange(8)[:, None]]
    )
    def test_average_pooling_of_flat_values(self, instead, index, tmp_path):
        written(flat(), tmp_path, (1, 4, 4))

        def change(model):
            place = next(at for at, node in enumerate(model.graph.node) if node.op_type == "Activation_relu")
            node = model.graph.node[place]
            put_number(model, "index", index.astype(np.int64))
            put_number(model, "to", np.array([0, 8], np.int64))
            pooling = onnx.helper.make_node(
                "AveragePooling", [*node.input, "index", "to"], list(node.output), domain="wellposed"
            )
            if instead:
                model.graph.node.remove(node)
            else:
                node.input[0], node.input[1] = "pooled", "pooled_error"
                pooling.output[0], pooling.output[1] = "pooled", "pooled_error"
            model.graph.node.insert(place, pooling)
            with_functions(model)

        forge(tmp_path, less(1.0 / 60.0), model=change)
        require_refused(tmp_path)

    @pytest.mark.parametrize("kind", ["AveragePooling", "MaximumPooling", "Reshaped", "Sum", "Identity", "Dropout"])
    def test_an_activation_renamed(self, kind, tmp_path):
        written(flat(), tmp_path, (1, 4, 4))

        def change(model):
            next(node for node in model.graph.node if node.op_type == "Activation_relu").op_type = kind

        forge(tmp_path, less(0.1), model=change)
        require_refused(tmp_path)

    @pytest.mark.parametrize("epsilon", [1e6, 1e31, np.inf, -1e-5, 0.0])
    def test_the_epsilon_of_a_normalisation(self, epsilon, tmp_path):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        written(model, tmp_path, (1, 4, 4))
        before, honest = (tmp_path / "m.onnx").read_bytes(), claim_of(tmp_path)
        assert any("epsilon 1e-05" in line for line in accepted(tmp_path))
        forge(tmp_path, lambda claim: claim.update(epsilon=1e6, lipschitz=1.01e-3 * claim["lipschitz"], pairs=None))
        require_refused(tmp_path, "keys")
        forge(tmp_path, lambda claim: claim.pop("epsilon"))
        forge(tmp_path, model=lambda proto: set_number(proto, "epsilon", epsilon))
        if epsilon == 1e6:  # a file of its own, which says so; its certificate is not one of the honest file
            assert any("epsilon 1000000" in line for line in accepted(tmp_path))
        else:
            require_refused(tmp_path)
        (tmp_path / "m.onnx").write_bytes(before)
        require_refused(tmp_path, "digest")
        assert claim_of(tmp_path)["model_sha256"] != honest["model_sha256"]

    def test_images_of_other_sizes(self, tmp_path):
        """The same weights on other images have another constant, and files of their own."""
        folders = [tmp_path / "small", tmp_path / "large"]
        for folder, side, window in zip(folders, (4, 8), (2, 4), strict=True):
            folder.mkdir()
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.AvgPool2d(window), nn.Flatten(), nn.Linear(12, 3))
            written(model, folder, (1, side, side))
        small, large = (claim_of(folder)["lipschitz"] for folder in folders)
        assert large < 0.6 * small
        for name in ("c.json", "c.safetensors"):
            shutil.copy(folders[1] / name, folders[0] / name)
        require_refused(folders[0], "digest")
        forge(folders[0], model=lambda model: None)  # sealed anew
        require_refused(folders[0])

        def wider(model):
            for extent in list(model.graph.input[0].type.tensor_type.shape.dim)[2:]:
                extent.dim_value = 8

        forge(folders[0], model=wider)
        require_refused(folders[0])

    def test_windows_of_a_larger_image(self, tmp_path):
        torch.manual_seed(0)
        model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))
        written(model, tmp_path, (1, 4, 4))

        def change(proto):
            tensor = stored(proto, "index")
            array = np.tile(onnx.numpy_helper.to_array(tensor), (1, 4))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

        forge(tmp_path, less(0.5), model=change)
        require_refused(tmp_path)

    def test_parametrisations(self, tmp_path):
        """A file holds W itself: whatever made it, a certificate is about no other."""
        folders = [tmp_path / "square", tmp_path / "projection"]
        for folder in folders:
            folder.mkdir()
            torch.manual_seed(0)
            model = nn.Sequential(wp.PcDEQ(4, 3, parametrisation=folder.name), nn.Linear(3, 2))
            with torch.no_grad():
                model[0].constraint.V.copy_(-model[0].constraint.V.abs())
            written(model, folder, (4,))
        assert claim_of(folders[1])["lipschitz"] < 0.99 * claim_of(folders[0])["lipschitz"]
        for name in ("c.json", "c.safetensors"):
            shutil.copy(folders[1] / name, folders[0] / name)
        require_refused(folders[0], "digest")
        forge(folders[0], model=lambda model: None)
        require_refused(folders[0])

    def test_layers_in_another_order(self, tmp_path):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        with torch.no_grad():
            model[0].weight.copy_(torch.ones(4, 4) + 1e-3 * torch.randn(4, 4))
            model[2].weight.copy_(torch.randn(4, 4))
        written(model, tmp_path, (4,))
        last = max(float(value) for row in claim_of(tmp_path)["pairs"] for value in row)

        def claim(content):
            content["pairs"] = [[1e-2 * value for value in row] for row in content["pairs"]]

        def backwards(proto):
            nodes = [proto.graph.node.pop() for _ in range(len(proto.graph.node) - 1)][1:]
            proto.graph.node.extend(nodes)

        forge(tmp_path, claim)
        require_refused(tmp_path, "pairs")
        assert last > 1.0
        forge(tmp_path, model=backwards)
        require_refused(tmp_path)


class TestFiles:
    """Evidence is a plain file beside the certificate, and nothing else is opened."""

    @pytest.fixture
    def folder(self, tmp_path):
        place = tmp_path / "own"
        place.mkdir()
        torch.manual_seed(0)
        written(nn.Sequential(nn.Linear(4, 4), wp.MonDEQ(4, 3)), place, (4,))
        return place

    @pytest.mark.parametrize(
        "name",
        ["{}/elsewhere", "../elsewhere", "./c.safetensors", "a/../c.safetensors", "", ".", "..", "c.safetensors\0"],
    )
    def test_other_places(self, name, folder):
        (folder.parent / "elsewhere").write_bytes((folder / "c.safetensors").read_bytes())
        forge(folder, lambda claim: claim["evidence"].update(file=name.format(folder.parent)))
        require_refused(folder, "evidence")

    @pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "..\\elsewhere", "C:elsewhere"])
    def test_devices(self, name, folder):
        forge(folder, lambda claim: claim["evidence"].update(file=name))
        require_refused(folder, "evidence")

    @pytest.mark.parametrize("name", ["c.safetensors", "m.onnx", "c.json"])
    @pytest.mark.parametrize("kind", ["pipe", "folder", "link", "link to a device", "nothing", "too much"])
    def test_what_is_no_plain_file(self, kind, name, folder):
        path = folder / name
        path.rename(folder / "before")
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "link to a device":
            path.symlink_to("/dev/zero")
        elif kind == "link" and name == "c.safetensors":
            path.symlink_to(folder / "before")
        elif kind == "too much":
            with path.open("wb") as file:
                file.truncate(1 << 32)
        if kind == "link" and name != "c.safetensors":  # which are what the user names
            path.symlink_to(folder / "before")
            assert is_accepted(folder)
        else:
            refused(folder, "files")
            assert main([str(folder / "c.json"), str(folder / "m.onnx")]) == 1

    @pytest.mark.parametrize("name", ["m.onnx", "c.json"])
    def test_another_of_the_three_files(self, name, folder):
        forge(folder, lambda claim: claim["evidence"].update(file=name))
        require_refused(folder, "evidence")
