"""Certificates of graph classifiers: against dense solutions, samples and attacks, attained, and checked by a stranger."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data

import wellposed as wp
from wellposed import testing
from wellposed.attacks.graphs import graph_distances
from wellposed.layers.graph_classifier import NodeSum
from wellposed.layers.options import solving_modules
from wellposed.lower_bounds.graph_witness import graph_slope, with_features
from wellposed.models import GraphClassifier
from wellposed.network import bounded_logits
from wellposed.solvers.solution import Tolerance


def graphs_of(count=12, features=3, seed=0, dtype=torch.float64):
    """Random directed graphs of one to eight nodes."""
    generator = testing.generator(seed)
    found = []
    for _ in range(count):
        size = int(testing.randint(1, 9, (1,), generator=generator))
        edges = testing.randint(0, size, (2, 2 * size), generator=generator)
        found.append(Data(x=testing.randn(size, features, generator=generator, dtype=dtype), edge_index=edges))
    return Batch.from_data_list(found)


def model_of(variant="lipschitz", dtype=torch.float64, features=3, **options):
    torch.manual_seed(2)
    settings = {"kappa": 1.0, "omega": 0.4} if variant == "lipschitz" else {"kappa": 0.6}
    settings |= {"activation": "group_sort", "variant": variant, "dtype": dtype, **options}
    layers = [wp.ImplicitGraph(features, 6, **settings), wp.ImplicitGraph(6, 4, **settings), NodeSum(by_root=True)]
    head = nn.Sequential(wp.OrthogonalLinear(4, 4, dtype=dtype), nn.ReLU(), nn.Linear(4, 3, dtype=dtype))
    return GraphClassifier(tuple(layers), head).eval()


def moved(data, change):
    found = data.clone()
    found.x = data.x + change
    return found


def norms(features, data):
    return torch.stack([features[data.batch == k].norm() for k in range(data.num_graphs)])


def dense_logits(model, data):
    """Each graph by itself, by iterating the equation with dense matrices."""
    found = []
    for k in range(data.num_graphs):
        part = data[k]
        size = part.num_nodes
        adjacency = testing.eye(size, dtype=torch.float64)
        ones = testing.ones(part.edge_index.shape[1], dtype=torch.float64)
        adjacency.index_put_((part.edge_index[1], part.edge_index[0]), ones, accumulate=True)
        adjacency = adjacency / (adjacency.sum(1)[:, None] * adjacency.sum(0)).sqrt()
        value = part.x.double()
        for layer in list(model.layers)[:-1]:
            scales = layer.kappa * (1 - layer.omega), layer.kappa * layer.omega
            w, omega = scales[0] * layer.state_map.weight.double(), scales[1] * layer.injection.weight.double()
            drive = adjacency @ value @ omega.t() + layer.injection.bias.double()
            state = torch.zeros_like(drive)
            for _ in range(400):
                state = layer.activation(adjacency @ state @ w.t() + drive)
            value = state
        found.append(value.sum(0) / size**0.5)
    pooled = torch.stack(found)
    first, last = model.head[0], model.head[2]
    hidden = torch.relu(pooled @ first.weight.double().t() + first.bias.double())
    return (hidden @ last.weight.double().t() + last.bias.double()).detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rtol", [1e-2, 1e-5])
def test_errors_of_logits_are_bounded(dtype, rtol):
    model, data = model_of(dtype=dtype, rtol=rtol, atol=rtol), graphs_of(dtype=dtype)
    result = bounded_logits(model, data)
    error = (result.logits.double() - dense_logits(model, data)).norm(dim=1)
    assert bool((error <= result.error).all())
    assert float(result.error.max()) <= 30 * rtol * (1 + float(result.logits.abs().max()))
    assert bool((result.elsewhere >= result.error).all()) and bool((result.growth > 0).all())


@pytest.mark.parametrize("variant", ["lipschitz", "orthogonal"])
def test_no_change_of_features_exceeds_the_certificate(variant):
    model, data = model_of(variant, rtol=1e-10, atol=1e-10), graphs_of()
    certificate = wp.certify(model)
    assert certificate.pairs is not None and certificate.check()
    with torch.no_grad():
        logits = model(data)
        labels = logits.argmax(1)
        radii = certificate.evaluate(data, labels)
        assert bool((radii > 0).all())
        for seed in range(20):
            torch.manual_seed(seed)
            change = torch.randn_like(data.x) * 10.0 ** (seed % 5 - 3)
            apart = norms(change, data)
            there = model(moved(data, change))
            assert bool(((there - logits).norm(dim=1) <= certificate.lipschitz * apart * (1 + 1e-7) + 1e-8).all())
            inside = change * (radii / apart)[data.batch, None]
            assert bool((model(moved(data, inside)).argmax(1) == labels).all())
    slope = graph_slope(model, data)
    assert 0.0 < slope <= certificate.lipschitz
    distances = graph_distances(model, data, labels, (0.1, 1.0, 10.0), steps=12)
    assert bool((distances > radii).all()) and bool(torch.isfinite(distances).any())


def test_found_distances_change_the_class_and_wrong_graphs_need_none():
    model, data = model_of(rtol=1e-10, atol=1e-10), graphs_of()
    labels = model(data).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    distances = graph_distances(model, data, labels, (3.0,), steps=12)
    assert float(distances[0]) == 0.0 and bool((distances[1:] > 0).all())
    assert bool((distances[torch.isfinite(distances)] <= 3.0 * (1 + 1e-6)).all())


def test_the_constant_is_attained_on_single_nodes():
    layer = wp.ImplicitGraph(4, 4, variant="lipschitz", activation="relu", kappa=1.0, omega=0.3, dtype=torch.float64)
    head = nn.Linear(4, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.state_map.free.zero_(), layer.injection.free.zero_()  # both are the identity
    model = GraphClassifier((layer, NodeSum(by_root=True)), head).eval()
    certificate = wp.certify(model)
    single = Batch.from_data_list(
        [Data(x=testing.ones(1, 4, dtype=torch.float64), edge_index=testing.zeros(2, 0, dtype=torch.int64))]
    )
    slope = graph_slope(model, single)
    assert slope == pytest.approx(certificate.lipschitz, rel=1e-5) and slope <= certificate.lipschitz


def test_solves_that_do_not_converge_certify_nothing():
    model, data = model_of(max_steps=1), graphs_of()
    labels = testing.zeros(data.num_graphs, dtype=torch.int64)
    with pytest.warns(wp.NotConvergedWarning):
        radii = wp.certify(model).evaluate(data, labels)
    assert not bool(radii.any())


def test_models_without_a_constant_for_all_graphs_are_refused():
    model = model_of()
    model.layers[2].by_root = False
    with pytest.raises(wp.CertificateError, match="layers.2: a sum over nodes grows"):
        wp.certify(model)
    model = GraphClassifier((nn.Linear(3, 3).double(), *model_of().layers), nn.Linear(4, 3).double()).eval()
    with pytest.raises(wp.CertificateError, match="model: (fails|its blocks)"):  # a Linear does not take graphs
        wp.certify(model)
    with pytest.raises(wp.CertificateError, match="needs graphs"):
        bounded_logits(nn.Sequential(NodeSum(by_root=True)), testing.zeros(2, 3))
    with pytest.raises(wp.CertificateError, match="forward=True"):
        wp.certify(model_of()).evaluate(graphs_of(), testing.zeros(12, dtype=torch.int64), forward=True)


def test_the_pooling_is_orthonormal_in_double_precision():
    data = graphs_of(20)
    graphs = wp.Graphs.of(data)
    ones = testing.ones(data.num_nodes, 1, dtype=torch.float64)
    torch.testing.assert_close(
        NodeSum(by_root=True)(ones, graphs)[:, 0], graphs.sizes.double().sqrt(), rtol=1e-15, atol=0.0
    )


def test_features_that_rounding_would_change_are_refused():
    model, data = model_of(dtype=torch.float32), graphs_of(dtype=torch.float64)
    with pytest.raises(wp.InputError, match="float64, the weights have torch.float32"):
        bounded_logits(model, data)
    exact = with_features(data, data.x.round())
    for part in solving_modules(model):
        part.tolerance = Tolerance(1e-6, 1e-6)
    torch.testing.assert_close(bounded_logits(model, exact).logits, model(exact))
    with pytest.raises(wp.CertificateError, match="0: a GraphClassifier inside another module"):
        wp.certify(nn.Sequential(model))
    with pytest.raises(wp.InputError, match="tensors are no graphs"):
        wp.certify(model, inputs=testing.zeros(2, 3))


def test_weights_of_other_factors_are_refused():
    model, other = model_of(), model_of(kappa=0.5)
    with pytest.raises(wp.InputError, match="kappa, omega"):
        other.load_state_dict(model.state_dict())
