"""Implicit graph networks against dense float64 solutions, and the data and experiments around them."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

import wellposed as wp
from wellposed import models, testing
from wellposed.cli.main import run as command
from wellposed.constraints.perron_frobenius import RowBounded, project_rows
from wellposed.data import graphs as graph_data
from wellposed.guarantee import GraphContraction
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.solvers.solution import Tolerance

VARIANTS = [
    {"variant": "ignn", "activation": "relu"},
    {"variant": "ignn", "activation": "tanh", "kappa": 0.9},
    {"variant": "orthogonal", "activation": "group_sort", "kappa": 0.7},
    {"variant": "lipschitz", "activation": "group_sort", "kappa": 1.0, "omega": 0.3},
]


def directed(count: int, largest: int = 9, seed: int = 0):
    """Random directed graphs of 1 to ``largest`` nodes: edges, number of nodes, graph of each node."""
    generator = testing.generator(seed)
    edges, batch = [], []
    for graph in range(count):
        size = int(testing.randint(1, largest + 1, (1,), generator=generator))
        edges.append(testing.randint(0, size, (2, 2 * size), generator=generator) + len(batch))
        batch += [graph] * size
    return torch.cat(edges, 1), len(batch), testing.tensor(batch)


def normalised(edges, nodes):
    """D_in^−½(A + I)D_out^−½ as a matrix, rows for targets."""
    matrix = testing.eye(nodes, dtype=torch.float64)
    matrix.index_put_((edges[1], edges[0]), testing.ones(edges.shape[1], dtype=torch.float64), accumulate=True)
    return matrix / (matrix.sum(1)[:, None] * matrix.sum(0)).sqrt()


def test_a_model_of_graphs_is_imported_on_first_use():
    assert models.GraphClassifier is GraphClassifier
    with pytest.raises(AttributeError, match="GraphClasifier"):
        models.GraphClasifier  # noqa: B018


def make(options, dtype=torch.float64, **more):
    torch.manual_seed(1)
    tolerance = {"rtol": 1e-11, "atol": 1e-11} if dtype == torch.float64 else {}
    return wp.ImplicitGraph(3, 6, dtype=dtype, **{**tolerance, **options, **more})


def weights(layer):
    """W and Ω as they run, in float64."""
    scale = {"ignn": (1, 1), "orthogonal": (layer.kappa, 1)}.get(
        layer.variant, (layer.kappa * (1 - layer.omega), layer.kappa * layer.omega)
    )
    return scale[0] * layer.state_map.weight.double(), scale[1] * layer.injection.weight.double()


def dense_state(layer, x, adjacency, steps=3000):
    w, omega = weights(layer)
    drive = adjacency @ x @ omega.t() + layer.injection.bias.double()
    state = torch.zeros_like(drive)
    for _ in range(steps):
        previous, state = state, layer.activation(adjacency @ state @ w.t() + drive)
        if float((state - previous).detach().norm()) < 1e-15:
            break
    return state


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_error_bound_and_batching(options, dtype):
    edges, nodes, batch = directed(12)
    layer = make(options, dtype)
    x = testing.randn(nodes, 3).to(dtype)
    solution = layer.solve(x, wp.Graphs(edges, nodes, batch))
    assert solution.converged.all()
    assert solution.value.dtype == dtype
    with torch.no_grad():
        truth = dense_state(layer, x.double(), normalised(edges, nodes))
    for graph in range(12):
        own = batch == graph
        error = float((solution.value[own].detach().double() - truth[own]).norm())
        assert error <= float(solution.error_bound[graph]) + 1e-13
        inside = own[edges[0]]
        renumbered = edges[:, inside] - int(own.nonzero()[0])
        alone = layer.solve(x[own], wp.Graphs(renumbered, int(own.sum())))
        assert float((alone.value - solution.value[own]).detach().norm()) <= float(
            alone.error_bound[0] + solution.error_bound[graph]
        )


@pytest.mark.parametrize("options", VARIANTS)
def test_gradients_for_directed_graphs(options):
    edges, nodes, batch = directed(5, 4)
    layer, graphs = make(options), wp.Graphs(edges, nodes, batch)
    x = testing.randn(nodes, 3, dtype=torch.float64, requires_grad=True)
    cotangent = testing.randn(nodes, 6, dtype=torch.float64)
    found = torch.autograd.grad((layer(x, graphs) * cotangent).sum(), [x, *layer.parameters()])
    unrolled = dense_state(layer, x, normalised(edges, nodes))
    expected = torch.autograd.grad((unrolled * cotangent).sum(), [x, *layer.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_gradients_of_second_order_and_functional_transforms():
    edges, nodes, batch = directed(3, 4)
    layer, graphs = make(VARIANTS[1], kappa=0.7), wp.Graphs(edges, nodes, batch)
    with torch.no_grad():
        layer.state_map.free.mul_(1.5)  # away from the boundary, where the projection has no derivative
    x = testing.randn(nodes, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, graphs))

    arguments = (x, *layer.parameters())
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)  # along random directions
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v, graphs), x.detach())
    state = testing.randn(nodes, 6, dtype=torch.float64)
    assert jacobian.shape == (nodes, 6, nodes, 3)
    (group,) = graphs.groups
    padded = group.pad(state)
    dense = torch.func.jacrev(group.propagate)(padded).reshape(padded.numel(), padded.numel())
    torch.testing.assert_close(dense @ padded.flatten(), group.propagate(padded).flatten())
    torch.testing.assert_close(dense.T @ padded.flatten(), group.propagate(padded, transposed=True).flatten())


@pytest.mark.parametrize("seed", range(5))
def test_norm_bounds_are_sound_and_tight(seed):
    edges, nodes, batch = directed(6, 20, seed)
    weight = testing.rand(edges.shape[1], generator=testing.generator(seed)) * 3
    for normalisation in ("symmetric", "none", "spectral"):
        graphs = wp.Graphs(edges, nodes, batch, weight, normalisation=normalisation)
        for group in graphs.groups:
            size = group.shape[1]
            identity = testing.eye(size, dtype=torch.float64).expand(group.shape[0], size, size)
            dense = group.propagate(identity)
            norms = torch.linalg.matrix_norm(dense, 2)
            assert (group.norm >= norms).all()
            assert (group.norm <= 1.02 * norms + 1e-12).all()
            if normalisation == "symmetric":  # known exactly
                torch.testing.assert_close(group.norm, torch.ones_like(norms), rtol=1e-12, atol=0)
            if normalisation == "spectral":
                assert (norms <= 1 + 1e-12).all()
            spectral_radius = float(torch.linalg.eigvals(dense).abs().amax())
            for transposed in (False, True):
                vector, gap = group.dominating(0.9 / spectral_radius, transposed=transposed)
                assert (vector > 0).all() and (gap > 0).all()
                matrix = dense.mT if transposed else dense
                truth = vector - 0.9 / spectral_radius * (matrix.abs() @ vector[:, :, None]).squeeze(2)
                assert (gap <= truth + 1e-12).all()
                assert (group.dominating(1.1 / spectral_radius, transposed=transposed)[1] <= 0).any()


def test_row_projection_is_the_nearest_point():
    generator = testing.generator(0)
    matrix = testing.randn(40, 13, generator=generator, dtype=torch.float64)
    matrix[0], matrix[1] = 0.0, 1.0
    for radius in (0.3, 1.0, 50.0):
        found = project_rows(matrix, radius)
        for row, nearest in zip(matrix, found, strict=True):
            low, high = 0.0, float(row.abs().max())
            if float(row.abs().sum()) <= radius:
                high = 0.0
            for _ in range(200):  # the threshold, by bisection
                middle = 0.5 * (low + high)
                inside = float((row.abs() - middle).clamp_min(0).sum()) <= radius
                low, high = (low, middle) if inside else (middle, high)
            torch.testing.assert_close(nearest, row.sign() * (row.abs() - high).clamp_min(0), rtol=1e-10, atol=1e-12)
    inside = testing.rand(5, 4, dtype=torch.float64) / 8
    assert torch.equal(project_rows(inside, 1.0), inside)
    leaf = matrix.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: project_rows(m, 0.7), (leaf[2:],))
    layer = RowBounded(6, 0.5)
    for _ in range(3):  # at a projected point every entry gets its gradient, those at zero too
        assert int((layer.free == 0).sum()) > 0
        (gradient,) = torch.autograd.grad(layer.weight.sum(), layer.free)
        assert torch.equal(gradient, testing.ones(6, 6))
        with torch.no_grad():
            layer.free.add_(0.1 * testing.randn(6, 6))
        layer.project()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("options", VARIANTS)
def test_condition_holds_for_any_parameters_or_the_layer_raises(options, dtype, scale):
    layer = make(options, dtype)
    with torch.no_grad():
        for parameter in layer.state_map.parameters():
            parameter.mul_(scale)
            parameter[0] = 0.0
    edges, nodes, batch = directed(3)
    try:
        layer.solve(testing.randn(nodes, 3).to(dtype), wp.Graphs(edges, nodes, batch))
    except wp.GuaranteeError:
        return
    w = weights(layer)[0].detach()
    assert min(float(torch.linalg.matrix_norm(w, 2)), float(w.abs().sum(1).max())) < 1.0


@pytest.mark.float32
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("optimiser", [torch.optim.AdamW, torch.optim.SGD])
def test_condition_after_a_thousand_steps(options, optimiser):
    layer = make(options, torch.float32)
    step = optimiser(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    generator = testing.generator(0)
    for _ in range(1000):  # noisy gradients, as adversarial as training gets
        for parameter in layer.parameters():
            parameter.grad = testing.randn(parameter.shape, generator=generator)
        step.step()
        if isinstance(layer.state_map, RowBounded):
            layer.state_map.project()
    w = weights(layer)[0].detach()
    bound = w.abs().sum(1).max() if layer.variant == "ignn" else torch.linalg.matrix_norm(w, 2)
    limit = layer.kappa * (1 - layer.omega) if layer.variant == "lipschitz" else layer.kappa
    assert float(bound) <= limit * (1 + 1e-5)
    edges, nodes, batch = directed(3)
    assert layer.solve(testing.randn(nodes, 3), wp.Graphs(edges, nodes, batch)).converged.all()


def test_each_norm_that_can_prove_convergence():
    """Frobenius, row and Perron–Frobenius bounds where the others fail; none, where none holds."""
    chain = testing.tensor([[0, 1, 2], [1, 2, 3]])
    strong = wp.Graphs(
        chain, 4, weight=testing.full((3,), 1.3, dtype=torch.float64), normalisation="none"
    )  # nilpotent, of norm 1.3
    layer = make(VARIANTS[0], kappa=0.95)
    with torch.no_grad():
        layer.state_map.free.fill_(0.95 / 6)  # norm and row sums 0.95, so that 0.95·1.3 > 1
    x = testing.randn(4, 3, dtype=torch.float64)
    solution = layer.solve(x, strong)
    adjacency = testing.zeros(4, 4, dtype=torch.float64)
    adjacency[chain[1], chain[0]] = 1.3
    with torch.no_grad():
        truth = dense_state(layer, x, adjacency)
    assert solution.converged.all()
    assert float((solution.value - truth).detach().norm()) <= float(solution.error_bound[0])
    cotangent = testing.randn(4, 6, dtype=torch.float64)
    found = torch.autograd.grad((layer.solve(x, strong).value * cotangent).sum(), list(layer.parameters()))
    expected = torch.autograd.grad((dense_state(layer, x, adjacency) * cotangent).sum(), list(layer.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    both_ways = torch.cat([chain, chain.flip(0)], 1)
    with pytest.raises(wp.GuaranteeError, match=r"graph 0: its adjacency is too large.*normalisation='symmetric'"):
        layer(x, wp.Graphs(both_ways, 4, weight=testing.full((6,), 1.3, dtype=torch.float64), normalisation="none"))
    with pytest.raises(wp.GuaranteeError):
        make(VARIANTS[2])(
            x, strong.__class__(both_ways, 4, weight=testing.full((6,), 1.3, dtype=torch.float64), normalisation="none")
        )
    assert make(VARIANTS[2]).solve(x, wp.Graphs(both_ways, 4, normalisation="spectral")).converged.all()


@pytest.mark.parametrize("adjoint", [False, True])
def test_every_bound_of_the_guarantee_for_linear_maps(adjoint):
    """‖(I − W⊗A)⁻¹d‖ never exceeds the bound, whichever norm proves it."""
    generator = testing.generator(3)
    for trial in range(60):
        edges, nodes, batch = directed(1, 7, trial)
        graphs = wp.Graphs(edges, nodes, batch, testing.rand(edges.shape[1], generator=generator), normalisation="none")
        (group,) = graphs.groups
        w = testing.randn(5, 5, generator=generator, dtype=torch.float64)
        w = w / w.abs().sum(1).amax() * float(testing.rand((), generator=generator))
        spectral, rows = float(torch.linalg.matrix_norm(w, 2)) * (1 + 1e-12), float(w.abs().sum(1).max()) * (1 + 1e-12)
        try:
            guarantee = GraphContraction(group, spectral if trial % 3 else 10.0, rows)
        except wp.GuaranteeError:
            continue
        guarantee = guarantee.transposed() if adjoint else guarantee
        dense = group.propagate(testing.eye(nodes, dtype=torch.float64)[None])[0]
        matrix = torch.kron(dense, w)
        matrix = matrix.T if adjoint else matrix
        defect = testing.randn(1, nodes, 5, generator=generator, dtype=torch.float64)
        change = torch.linalg.solve(testing.eye(5 * nodes, dtype=torch.float64) - matrix, defect.flatten())
        bounds = (
            guarantee.defect_bound(defect, defect.flatten(1).norm(dim=1)),
            guarantee._resolved(defect, testing.zeros(1)),
        )
        for bound in bounds:
            assert float(change.norm()) <= float(bound) * (1 + 1e-9)


@pytest.mark.parametrize("options", VARIANTS[2:])
def test_lipschitz_constant_is_never_exceeded(options):
    layer = make(options)
    constant, _ = layer.lipschitz()
    edges, nodes, batch = directed(4)
    graphs = wp.Graphs(edges, nodes, batch)
    for seed in range(30):
        torch.manual_seed(seed)
        x = testing.randn(nodes, 3, dtype=torch.float64)
        y = x + torch.randn_like(x) * 10.0 ** (seed % 5 - 4)
        with torch.no_grad():
            change = (layer(x, graphs) - layer(y, graphs)).norm()
        assert float(change) <= constant * float((x - y).norm()) * (1 + 1e-9)
    if options["variant"] == "lipschitz":
        assert constant <= 1 + 1e-9


def test_lipschitz_constant_of_one_is_attained():
    layer = wp.ImplicitGraph(
        4, 4, variant="lipschitz", kappa=1.0, omega=0.3, dtype=torch.float64, rtol=1e-12, atol=1e-12
    )
    with torch.no_grad():
        for part in (layer.state_map, layer.injection):
            part.free.zero_()  # Q = P = I
    x = testing.rand(3, 4, dtype=torch.float64)
    value = layer(x, wp.Graphs(testing.tensor([[0, 1], [1, 2]]), 3, normalisation="symmetric"))
    isolated = layer(x, wp.Graphs(testing.zeros(2, 0, dtype=torch.int64), 3))
    torch.testing.assert_close(isolated, x, rtol=1e-9, atol=1e-9)
    assert float(value.detach().norm()) <= float(x.norm()) * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS)
def test_error_bound_over_a_hundred_thousand_graphs(options):
    layer = make(options, torch.float32, rtol=1e-3, atol=1e-3)
    ratios = []
    for seed in range(100):
        generator = testing.generator(seed)
        edges = testing.randint(0, 4, (2, 6), generator=generator)
        x = testing.randn(1000, 4, 3, generator=generator) * 10.0 ** (seed % 3 - 1)
        shifts = 4 * testing.arange(1000).repeat_interleave(6)
        graphs = wp.Graphs(edges.repeat(1, 1000) + shifts, 4000, testing.arange(1000).repeat_interleave(4))
        solution = layer.solve(x.flatten(0, 1), graphs)
        with torch.no_grad():
            truth = dense_state(layer, x.double(), normalised(edges, 4))
        error = (solution.value.detach().double().reshape(1000, -1) - truth.reshape(1000, -1)).norm(dim=1)
        assert (error <= solution.error_bound + 1e-13 * (1 + truth.reshape(1000, -1).norm(dim=1))).all()
        ratios.append((solution.error_bound / error.clamp_min(1e-12)).detach())
    print(f"{options}: median overestimate {float(torch.cat(ratios).median()):.2f}")


def test_bad_input():
    edges, nodes, batch = directed(3)
    graphs, layer = wp.Graphs(edges, nodes, batch), make(VARIANTS[0])
    x = testing.randn(nodes, 3, dtype=torch.float64)
    with pytest.raises(wp.InputError, match=f"{nodes} nodes of 3 features"):
        layer(x[1:], graphs)
    with pytest.raises(wp.InputError, match="dtype torch.float32"):
        layer(x.float(), graphs)
    x[0, 0] = torch.nan
    with pytest.raises(wp.InputError, match="x: has NaN"):
        layer(x, graphs)
    with pytest.raises(wp.InputError, match="from one graph of the batch into another"):
        wp.Graphs(testing.tensor([[0], [nodes - 1]]), nodes, batch)
    with pytest.raises(wp.InputError, match="names nodes outside"):
        wp.Graphs(testing.tensor([[0], [nodes]]), nodes, batch)
    with pytest.raises(wp.InputError, match=r"needs \(2, edges\)"):
        wp.Graphs(testing.zeros(3, 2), nodes, batch)
    with pytest.raises(wp.InputError, match="negative weights"):
        wp.Graphs(edges, nodes, batch, -testing.ones(edges.shape[1]))
    with pytest.raises(wp.InputError, match="mixes features"):
        wp.ImplicitGraph(3, 6, activation="group_sort")
    with pytest.raises(wp.InputError, match="must map zero to zero"):
        wp.ImplicitGraph(3, 6, activation="sigmoid")
    with pytest.raises(wp.InputError, match="kappa=1"):
        wp.ImplicitGraph(3, 6, kappa=1.0)
    with pytest.raises(wp.OptionError, match="Did you mean 'variant'"):
        wp.ImplicitGraph(3, 6, varient="ignn")


# --- torch_geometric data, training, folds ---


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    """Forty rings and stars in the files of a TU set called MUTAG."""
    folder = tmp_path / "TUDataset" / "MUTAG" / "raw"
    folder.mkdir(parents=True)
    edges, indicator, node_labels, labels = [], [], [], []
    for graph in range(40):
        size, first = 5 + graph % 4, len(indicator) + 1
        star = graph % 2
        for node in range(1, size):
            other = 0 if star else node - 1
            edges += [(first + node, first + other), (first + other, first + node)]
        indicator += [graph + 1] * size
        node_labels += [graph % 3] + [0] * (size - 1)
        labels.append(1 if star else -1)
    parts = {
        "A": "\n".join(f"{a}, {b}" for a, b in edges),
        "graph_indicator": "\n".join(map(str, indicator)),
        "graph_labels": "\n".join(map(str, labels)),
        "node_labels": "\n".join(map(str, node_labels)),
    }
    digest = hashlib.sha256()
    for name, text in parts.items():
        (folder / f"MUTAG_{name}.txt").write_text(text + "\n")
        digest.update((text + "\n").encode())
    monkeypatch.setitem(graph_data._DIGESTS, "MUTAG", digest.hexdigest())
    return tmp_path


def test_folds_partition_the_set(small_set):
    tested = []
    for fold in range(10):
        data = graph_data.load_graphs("MUTAG", small_set, fold)
        everything = torch.cat([data.train, data.validation, data.test])
        assert sorted(everything.tolist()) == list(range(40))
        assert data.labels[data.test].bincount().tolist() == [2, 2]  # stratified
        tested += data.test.tolist()
    assert sorted(tested) == list(range(40))
    assert data.shape == (3,) and data.classes == 2 and data.as_graphs("x") is data and len(repr(data)) < 200
    graphs, labels = data.batch(data.test)
    assert graphs.num_graphs == 4 and torch.equal(labels, data.labels_of("test"))
    with pytest.raises(wp.InputError, match="a run on the graphs of MUTAG; this needs a run on images"):
        data.as_images("run=3")
    assert int(data.graphs[0].num_nodes) == 5 and data.graphs[0].edge_index.shape == (2, 8)


def test_missing_and_corrupt_files(small_set, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(graph_data.DataError, match=r"NCI1_A.txt: not found.*TUDataset/NCI1/raw/NCI1_A.txt"):
        graph_data.load_graphs("NCI1", small_set)
    with (small_set / "TUDataset/MUTAG/raw/MUTAG_A.txt").open("a") as stream:
        stream.write("1, 3\n")
    with pytest.raises(graph_data.DataError, match="SHA-256"):
        graph_data.load_graphs("MUTAG", small_set)


@pytest.mark.float32
def test_a_torch_geometric_batch_is_understood(small_set):
    from torch_geometric.data import Batch

    data = graph_data.load_graphs("MUTAG", small_set)
    batch = Batch.from_data_list(data.graphs[:7])
    graphs = wp.Graphs.of(batch)
    assert graphs.count == 7 and graphs.nodes == batch.num_nodes
    layer = wp.ImplicitGraph(3, 4)
    single = layer(data.graphs[2].x, wp.Graphs.of(data.graphs[2]))
    torch.testing.assert_close(layer(batch.x, graphs)[graphs.batch == 2], single, rtol=1e-2, atol=1e-3)


@pytest.mark.float32
@pytest.mark.parametrize("variant", ["ignn", "orthogonal", "lipschitz"])
def test_train_from_the_command_line(small_set, tmp_path, capsys, variant):
    out = tmp_path / "run"
    options = ["--variant", variant, "--width", "8", "--depth", "2", "--epochs", "3", "--batch-size", "16"]
    code = command(
        ["train", "ignn", "--data", "MUTAG", *options, "--data-root", str(small_set), "--out", str(out), "--json"]
    )
    assert code == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["validation/accuracy"] <= 1 and 0 <= result["test/accuracy"] <= 1
    certify = ["certify", str(out), "--data-root", str(small_set), "--json"]
    if variant != "lipschitz":
        assert command(certify) == 1
        assert "a sum over nodes grows with the graph" in capsys.readouterr().err
        return
    assert command(certify) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["inputs"] == "graphs" and 0 < summary["lower_bound"] <= summary["lipschitz"] <= 1 + 1e-4
    assert command(["verify", str(out / "certificate.json"), str(out / "model.onnx")]) == 0
    attack = ["attack", str(out), "--data-root", str(small_set), "--eps", "0.1", "1", "5", "--steps", "6"]
    assert command(attack) == 0  # fails on any contradiction
    text = capsys.readouterr().out
    assert "units of node features" in text and "test graphs" in text
    attacked = json.loads((out / "attacked.json").read_text())["distances"]
    certified = json.loads((out / "certified.json").read_text())["radii"]["pairs"]
    assert len(attacked) == len(certified) == 4 and any(certified)
    assert all(far > near or far == near == 0.0 for far, near in zip(attacked, certified, strict=True))
    assert command([*attack, "--norm", "linf"]) == 2 and command([*certify, "--method", "ladder"]) == 2
    assert command(["report", str(out), "--data-root", str(small_set)]) == 0


@pytest.mark.float32
def test_reproduce_reports_four_conventions_and_paired_differences(small_set, tmp_path, capsys, monkeypatch):
    from wellposed.experiments import graph_folds

    small = {
        name: dataclasses.replace(config, epochs=4, family=dataclasses.replace(config.family, width=4, depth=1))
        for name, config in graph_folds.presets().items()
        if name in graph_folds.PRESETS
    }
    monkeypatch.setattr(graph_folds, "presets", lambda: small)
    out = tmp_path / "folds"
    arguments = [
        "reproduce",
        "graphs",
        "--folds",
        "2",
        "--seeds",
        "2",
        "--out",
        str(out),
        "--data-root",
        str(small_set),
    ]
    assert command([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["folds"] == 2 and len(summary["lines"]) == 12
    # The same from the records, by hand.
    runs = {
        (p, s, f): [row["test/accuracy"] for row in graph_folds.read_metrics(out / f"{p}-seed{s}-fold{f}")]
        for p in graph_folds.PRESETS for s in range(2) for f in range(2)
    }  # fmt: skip
    for line in summary["lines"]:
        if line["convention"] == "last":
            mine = [runs[line["preset"], s, f][-1] for s in range(2) for f in range(2)]
            assert line["mean"] == pytest.approx(25 * sum(mine), abs=1e-4)
        if line["convention"] == "best per fold":
            mine = [max(runs[line["preset"], s, f]) for s in range(2) for f in range(2)]
            assert line["mean"] == pytest.approx(25 * sum(mine), abs=1e-4)
    means = {(line["preset"], line["convention"]): line["mean"] for line in summary["lines"]}
    for line in summary["lines"]:
        if line["difference"] is not None:
            assert line["difference"] == pytest.approx(line["mean"] - means["ignn", line["convention"]], abs=1e-9)
    for preset in graph_folds.PRESETS:
        assert means[preset, "best per fold"] >= means[preset, "best common"] >= means[preset, "last"] - 1e-9
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/weights.safetensors")}
    assert command(arguments) == 0  # nothing is trained twice
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/weights.safetensors")}
    assert "paired difference" in capsys.readouterr().out


@pytest.mark.skipif("WELLPOSED_DATA" not in os.environ, reason="needs WELLPOSED_DATA")
@pytest.mark.parametrize(
    ("name", "graphs", "counts", "features"),
    [("MUTAG", 188, [63, 125], 7), ("PTC_MR", 344, [192, 152], 18), ("COX2", 467, [365, 102], 35),
     ("PROTEINS", 1113, [663, 450], 3), ("NCI1", 4110, [2053, 2057], 37)],
)  # fmt: skip
def test_published_sets(name, graphs, counts, features):
    data = graph_data.load_graphs(name, Path(os.environ["WELLPOSED_DATA"]))
    assert len(data.graphs) == graphs and data.shape == (features,)
    assert data.labels.bincount().tolist() == counts


def test_node_classification_over_long_chains():
    """The class of a chain stands on its first node only; every node must find it, on chains never seen."""

    def chains(count, length, seed):
        generator = testing.generator(seed)
        labels = testing.randint(0, 2, (count,), generator=generator)
        x = 0.1 * testing.randn(count, length, 4, generator=generator)
        x[testing.arange(count), 0, labels] += 1.0
        first = testing.arange(count)[:, None] * length + testing.arange(length - 1)
        edges = torch.stack([first.flatten(), first.flatten() + 1])
        batch = testing.arange(count).repeat_interleave(length)
        return x.flatten(0, 1), wp.Graphs(edges, count * length, batch), labels.repeat_interleave(length)

    torch.manual_seed(0)
    layer = wp.ImplicitGraph(4, 8, variant="orthogonal", activation="group_sort", rtol=1e-2, atol=1e-2)
    head = torch.nn.Linear(8, 2)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=3e-2)
    x, graphs, labels = chains(30, 8, 0)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(head(layer(x, graphs)), labels).backward()
        optimiser.step()
    x, graphs, labels = chains(100, 8, 1)
    with torch.no_grad():
        assert float((head(layer(x, graphs)).argmax(1) == labels).float().mean()) >= 0.95


@pytest.mark.parametrize("batch", [[0, 0, 0, 3], [0, 0, 1, 1, 4], [0] * 5 + [2, 2, 5], [5], [1, 0, 1, 0]])
def test_graphs_without_nodes_and_unsorted_batches(batch):
    batch = testing.tensor(batch)
    graphs = wp.Graphs(testing.zeros(2, 0, dtype=torch.int64), len(batch), batch, count=7)
    layer = make(VARIANTS[0])
    x = testing.randn(len(batch), 3, dtype=torch.float64)
    solution = layer.solve(x, graphs)
    assert solution.converged.shape == (7,) and solution.converged.all()
    alone = layer(x, wp.Graphs(testing.zeros(2, 0, dtype=torch.int64), len(batch), testing.arange(len(batch))))
    torch.testing.assert_close(solution.value, alone, rtol=1e-9, atol=1e-9)
    with pytest.raises(wp.InputError, match="batch names"):
        wp.Graphs(testing.zeros(2, 0, dtype=torch.int64), len(batch), batch, count=1 if int(batch.max()) else 0)


def test_weights_that_cannot_be_used():
    edges = testing.tensor([[0, 1], [1, 0]])
    with pytest.raises(wp.InputError, match="needs a gradient"):
        wp.Graphs(edges, 2, weight=testing.ones(2, requires_grad=True))
    huge = testing.full((2,), 1e308, dtype=torch.float64)
    with pytest.raises(wp.InputError, match="overflow"):
        wp.Graphs(edges, 2, weight=huge, normalisation="spectral")
    assert float(wp.Graphs(edges, 2, weight=huge).groups[0].norm[0]) == pytest.approx(1.0)
    tiny = wp.Graphs(edges, 2, weight=testing.full((2,), 1e-170, dtype=torch.float64), normalisation="none")
    assert float(tiny.groups[0].norm[0]) >= 1e-170
    bad = wp.ImplicitGraph(3, 4, dtype=torch.bfloat16)
    with pytest.raises(wp.InputError, match="float32 or float64"):
        bad(testing.zeros(2, 3, dtype=torch.bfloat16), wp.Graphs(edges, 2))


def test_row_projection_of_huge_parameters_in_single_precision():
    for scale in (1e3, 1e7):
        matrix = scale * testing.randn(10, 64, generator=testing.generator(0))
        assert float(project_rows(matrix, 0.9).double().abs().sum(1).max()) <= 0.9 * (1 + 1e-6)


@pytest.mark.float32
@pytest.mark.parametrize("options", VARIANTS)
def test_trained_layers_reach_six_digits_within_the_predicted_steps(options):
    layer = make(options, torch.float32, rtol=1e-4, atol=1e-4)
    edges, nodes, batch = directed(12)
    graphs = wp.Graphs(edges, nodes, batch)
    generator = testing.generator(0)
    x, target = testing.randn(nodes, 3, generator=generator), testing.randn(nodes, 6, generator=generator)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        (layer(x, graphs) - target).square().mean().backward()
        optimiser.step()
        if isinstance(layer.state_map, RowBounded):
            layer.state_map.project()
    layer.tolerance = wp.solvers.solution.Tolerance(1e-6, 1e-6)
    solution = layer.solve(x, graphs)
    size = testing.zeros(12).index_add(0, batch, solution.value.detach().square().sum(1)).sqrt()
    assert solution.converged.all()
    assert (solution.error_bound <= 1e-6 * (1 + size) * (1 + 1e-5)).all()
    (group,) = graphs.groups
    plan = GraphContraction(group, *layer.norms(proved=True)).picard_plan()
    # The bound of a maximum norm is wider than that of the Frobenius norm by up to the root of the width.
    reach = 2 * float(size.max()) * 6**0.5
    assert int(solution.steps.max()) <= plan.iterations(reach, 0.1e-6)


@pytest.mark.float32
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [*VARIANTS, {"variant": "ignn", "kappa": 0.99}], ids=str)
@torch.no_grad()
def test_evaluations_reach_their_tolerance_without_a_false_alarm(options):
    """Wide states, of which the rows' bound is many times the error: it was mistaken for a floor of rounding."""
    edges, nodes, batch = directed(60, 25)
    graphs, x = wp.Graphs(edges, nodes, batch), testing.randn(nodes, 5)
    for scale in (1.0, 4.0):
        layer = wp.ImplicitGraph(5, 64, **options).eval()
        for name, part in layer.named_parameters():
            part.mul_(1.0 if name.endswith("bias") else scale)
        value, found = layer(x, graphs).double(), layer.solve(x, graphs)
        assert bool(found.converged.all()) and found.error_bound is not None
        own = copy.deepcopy(layer).double()
        own.tolerance = Tolerance(1e-11, 1e-11)
        exact = own.solve(x.double(), graphs).value
        (rtol, atol), count = layer.limits(), len(found.error_bound)

        def size(of, count=count):
            return torch.zeros(count, dtype=torch.float64).index_add_(0, batch, of.square().sum(1)).sqrt()

        # The maps of a copy in float64 are formed in it, and differ by the rounding of float32.
        assert bool((size(value - exact) <= atol + rtol * size(exact)).all())
        assert bool((size(found.value.double() - exact) <= found.error_bound + 1e-5 * (1.0 + size(exact))).all())


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("variant", ["ignn", "orthogonal", "lipschitz"])
def test_batches_without_nodes(variant, count):
    graphs = wp.Graphs(torch.zeros(2, 0, dtype=torch.int64), 0, count=count)
    layer, x = wp.ImplicitGraph(3, 4, variant=variant), torch.zeros(0, 3, requires_grad=True)
    value, solution = layer(x, graphs), layer.solve(x, graphs)
    assert value.shape == solution.value.shape == (0, 4) and graphs.count == (count or 0)
    assert solution.converged.shape == (graphs.count,) and bool(solution.converged.all())
    value.sum().backward()
    assert x.grad.shape == (0, 3)
    assert all(not part.grad.any() for part in layer.parameters())
    assert NodeSum()(value, graphs).shape == (graphs.count, 4)
