"""Deployed files of networks on graphs: onnxruntime against dense float64 solutions, and proofs of their certificates."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch_geometric.data import Batch, Data

import wellposed as wp
from harness.deployed_files import accepted, changed, claim_of, forge, refused, stored
from test_graph_certificates import dense_logits, graphs_of, model_of
from wellposed.checker import check
from wellposed.deployment import certify_file
from wellposed.deployment.runtime import DeployedNetwork

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32

MODELS = {
    "sorted": {"variant": "lipschitz"},
    "contractive": {"variant": "orthogonal", "activation": "tanh", "kappa": 0.9},
    "linear pieces": {"variant": "orthogonal", "activation": "leaky_relu"},
}


def deployed(name: str, path: Path, **options: float) -> tuple[wp.GraphClassifier, DeployedNetwork]:
    model = model_of(dtype=torch.float32, **MODELS[name])
    wp.export(model, path, **options)
    return model, DeployedNetwork(path)


@pytest.mark.parametrize("name", MODELS)
def test_errors_are_within_their_bounds(name: str, tmp_path: Path) -> None:
    model, file = deployed(name, tmp_path / "m.onnx")
    network = wp.materialise(model).exact
    for count, scale in ((1, 1.0), (7, 1e-3), (128, 1.0), (128, 100.0)):
        data = graphs_of(count, seed=count, dtype=torch.float32)
        data.x *= scale
        logits, bound = file(data)
        data.x = data.x.double()
        exact = network.bounded(data)
        error = (logits.double() - exact.logits).norm(dim=1)
        assert bound.shape == (count,) and bool((error <= bound.double() + exact.error).all())
        assert bool((bound <= 1e-3).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_ten_thousand_graphs(name: str, tmp_path: Path) -> None:
    model, file = deployed(name, tmp_path / "m.onnx", tolerance=1e30)
    network, wrong, seen = wp.materialise(model).exact, 0, 0
    while seen < 10_000:
        for count in (1, 7, 128):
            data = graphs_of(count, seed=seen, dtype=torch.float32)
            data.x *= 10.0 ** (seen % 9 - 4)
            logits, bound = file(data)
            data.x = data.x.double()
            exact = network.bounded(data)
            wrong += int((~((logits.double() - exact.logits).norm(dim=1) <= bound.double() + exact.error)).sum())
            seen += count
    assert wrong == 0


def test_errors_against_dense_solutions(tmp_path: Path) -> None:
    model, file = deployed("sorted", tmp_path / "m.onnx")
    data = graphs_of(8, dtype=torch.float32)
    logits, bound = file(data)
    assert bool(((logits.double() - dense_logits(model, data)).norm(dim=1) <= bound.double() + 1e-12).all())


def test_a_graph_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    _, file = deployed("sorted", tmp_path / "m.onnx")
    data = graphs_of(9, dtype=torch.float32)
    logits, bound = file(data)
    for place in range(9):
        alone, own = file(data[place])
        assert float((alone[0] - logits[place]).norm()) <= float(bound[place] + own[0])


def test_edges_and_features_that_are_none_have_no_answer(tmp_path: Path) -> None:
    _, file = deployed("sorted", tmp_path / "m.onnx")
    parts = [Data(x=torch.randn(3, 3), edge_index=torch.tensor([[0, 1, 1], [1, 0, 2]])) for _ in range(2)]
    data = Batch.from_data_list(parts)
    arrays = {"x": data.x.numpy(), "edge_index": data.edge_index.numpy(), "batch": data.batch.numpy()}
    run = file._session.run
    assert np.isfinite(run(["error_bound"], arrays)[0]).all()
    across = arrays["edge_index"].copy()
    across[1, 0] = 4
    assert np.isinf(run(["error_bound"], {**arrays, "edge_index": across})[0]).all()
    assert np.isinf(run(["error_bound"], {**arrays, "edge_index": arrays["edge_index"] - 1})[0]).all()
    assert np.isinf(run(["error_bound"], {**arrays, "batch": arrays["batch"] - 1})[0]).all()
    features = arrays["x"].copy()
    features[1, 2] = np.nan
    bound = run(["error_bound"], {**arrays, "x": features})[0]
    assert np.isinf(bound[0]) and np.isfinite(bound[1])
    data.x, data.edge_index, data.batch = data.x[:3], data.edge_index[:, :3], data.batch[:3]
    with pytest.raises(wp.InputError, match="without nodes at the end"):
        file(data)


def test_too_few_iterations_are_counted(tmp_path: Path) -> None:
    model, _ = deployed("sorted", tmp_path / "m.onnx", tolerance=100.0)
    proto = onnx.load(tmp_path / "m.onnx")
    limit = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("limit"))
    limit.CopyFrom(onnx.numpy_helper.from_array(np.array(2), limit.name))
    onnx.save(proto, tmp_path / "m.onnx")
    data = graphs_of(10, dtype=torch.float32)
    logits, bound = DeployedNetwork(tmp_path / "m.onnx")(data)
    error = (logits.double() - dense_logits(model, data)).norm(dim=1)
    assert float(error.max()) > 1e-4 and bool((error <= bound).all()) and bool(torch.isfinite(bound).all())


@pytest.mark.parametrize("name", MODELS)
def test_certificates_are_proved(name: str, tmp_path: Path) -> None:
    model, file = deployed(name, tmp_path / "m.onnx")
    certificate = wp.certify(wp.materialise(model))
    certify_file(certificate, tmp_path / "m.onnx", tmp_path / "c.json")
    assert any("its edges stay the same" in line for line in accepted(tmp_path))
    claimed = claim_of(tmp_path)["lipschitz"]
    assert certificate.lipschitz * (1 - 1e-6) <= claimed <= certificate.lipschitz * (1 + 1e-6)
    data = graphs_of(9, dtype=torch.float32)
    labels = file(data)[0].argmax(1)
    radii = file.radii(data, labels, certificate)
    assert bool((radii > 0.0).all())
    change = torch.randn_like(data.x)
    sizes = torch.stack([change[data.batch == k].norm() for k in range(9)])
    data.x += 0.999 * change * (radii / sizes)[data.batch, None]
    assert bool((file(data)[0].argmax(1) == labels).all())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("graphs")
    model, _ = deployed("sorted", found / "m.onnx")
    certify_file(wp.certify(wp.materialise(model)), found / "m.onnx", found / "c.json")
    return found


def test_the_proof_is_exact_too(folder: Path) -> None:
    pytest.importorskip("flint")
    assert any("rational" in line for line in check(folder / "c.json", folder / "m.onnx", exact=True))


CHANGES = {
    "contraction": ("GraphEquilibrium_identity_1.contraction", lambda a: a * 0.9, "contraction: "),
    "larger state map": ("GraphEquilibrium_identity_1.matrix", lambda a: 1.1 * a, "contraction: "),
    "larger factor": ("GraphEquilibrium_identity_1.through", lambda a: 1.1 * a, "contraction: "),
    "larger input map": ("GraphEquilibrium_identity_1.injection", lambda a: 1.1 * a, "lipschitz: "),
    "partners": ("GraphEquilibrium_identity_1.partner", lambda a: np.roll(a, 1), "sorts: "),
    "both lower": ("GraphEquilibrium_identity_1.lower", lambda a: a * 0 + 1, "sorts: "),
    "no step": ("GraphEquilibrium_identity_1.limit", lambda a: a * 0, "options: "),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_numbers_are_refused(name: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    words, change, reason = CHANGES[name]
    forge(tmp_path, model=lambda m: changed(stored(m, words), change))
    refused(tmp_path, reason)


def taken(model: onnx.ModelProto, place: int, entry: int, name: str) -> None:
    """Let a node take something else."""
    model.graph.node[place].input[entry] = name


def entrance(model: onnx.ModelProto) -> onnx.NodeProto:
    return onnx.helper.make_node("Enter", ["x"], model.graph.node[0].output, domain="wellposed")


STRUCTURES = {
    "nodes in place of graphs": (lambda m: m.graph.node.remove(m.graph.node[3]), "graph"),
    "edges in place of nodes": (lambda m: taken(m, 1, 3, "edge_index"), "where the input batch"),
    "numbers in place of edges": (lambda m: taken(m, 1, 2, m.graph.initializer[0].name), "where the input edge_index"),
    "no graphs": (lambda m: m.graph.input.pop(), "of this format"),
    "another entrance": (lambda m: m.graph.node[0].CopyFrom(entrance(m)), "graphs: "),
    "numbers with the name of edges": (lambda m: setattr(m.graph.initializer[0], "name", "batch"), "names: "),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_other_structures_are_refused(name: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change, reason = STRUCTURES[name]
    forge(tmp_path, model=change)
    refused(tmp_path, reason)


def test_a_folder_of_a_network_on_graphs(tmp_path: Path) -> None:
    wp.save(model_of(dtype=torch.float32), tmp_path)
    folder, data = wp.load(tmp_path), graphs_of(5, dtype=torch.float32)
    assert "`edge_index`" in (tmp_path / "card.md").read_text()
    assert bool((folder.radii(data, folder(data)[0].argmax(1)) > 0.0).all())


def test_layers_without_a_form_are_refused(tmp_path: Path) -> None:
    model = model_of(dtype=torch.float32)
    model.layers[2].by_root = False
    with pytest.raises(wp.CertificateError, match="layers.2.*sums that grow with the graph"):
        wp.export(model, tmp_path / "m.onnx")
    with pytest.raises(wp.CertificateError, match="takes graphs"):
        wp.deployable(model_of(dtype=torch.float32))
