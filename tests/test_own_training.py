"""Own models, own data and own training loops from Python, network folders on the command line, and wrapped modules."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.cli.main import run
from wellposed.data import from_arrays
from wellposed.errors import DataError

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]
datasets = pytest.importorskip("sklearn.datasets")
lightning = pytest.importorskip("lightning")


class Branching(nn.Module):
    """A user's own module: an equilibrium, and a branch around it that is added to its output."""

    def __init__(self, features, classes):
        super().__init__()
        self.first, self.last = nn.Linear(features, 8), nn.Linear(8, classes)
        self.equilibrium, self.around = wp.MonDEQ(8, 8, m=1.0), nn.Linear(features, classes)

    def forward(self, x):
        return self.last(self.equilibrium(torch.relu(self.first(x)))) + self.around(x)


@pytest.fixture(scope="module")
def data():
    found = datasets.load_breast_cancer()
    return from_arrays({"x_train": found.data, "y_train": found.target}, name="cancer")


@pytest.fixture(scope="module")
def trained(data):
    torch.manual_seed(0)
    model = wp.normalised(Branching(30, 2), data)
    before = [parameter.clone() for parameter in model.parameters()]
    result = wp.train(model, data, epochs=8, batch_size=32, learning_rate=0.02)
    assert result.model is model and any(
        not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)
    )
    return result


def test_an_own_module_with_a_branch_is_trained_and_certified_without_a_change_to_it(trained, data):
    certificate = wp.certify(trained, inputs=data.test_x)
    assert certificate.check() and certificate.is_about(trained)
    with torch.no_grad():
        right = trained(data.test_x).argmax(1) == data.test_y
    assert right.float().mean() > 0.85
    assert trained.metrics["test/accuracy"] == pytest.approx(right.float().mean().item(), abs=1e-6)
    table = trained.table(certificate)
    assert "the columns' own units in cancer" in table and "114 of 569 samples were split off" in table
    radii = certificate.evaluate(data.test_x, data.test_y)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        step = torch.randn(data.test_x.shape, generator=generator).double()
        moved = data.test_x.double() + 0.999 * radii[:, None] * step / step.norm(dim=1, keepdim=True)
        assert (certificate.network.exact(moved).argmax(1) == data.test_y)[radii > 0.0].all()
    assert (radii > 0.0).double().mean() > 0.8


def test_the_same_seed_gives_the_same_network_and_leaves_the_generators(data):
    state = torch.random.get_rng_state()
    first, again = (wp.train("mondeq", data, epochs=1, seed=3) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(
        torch.equal(*pair) for pair in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    other = wp.train(wp.families.LBENFamily(width=6, gamma=2.0), data, epochs=1, seed=4)
    certificate = other.certify()
    assert certificate.lipschitz <= 2.01 / min(data.std)


def test_data_of_every_kind(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y)
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    kinds = [
        (x, y),
        {"x_train": torch.from_numpy(x), "y_train": y},
        tensors,
        tmp_path / "a.npz",
        str(tmp_path / "a.npz"),
    ]
    results = [wp.train("feedforward", kind, epochs=1, validation=0.0) for kind in kinds]
    weights = [torch.cat([part.flatten() for part in result.parameters()]) for result in results]
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    slope = wp.train("mondeq", (x, x @ np.ones((3, 2), np.float32)), task="regression", epochs=2)
    assert slope(torch.from_numpy(x)).shape == (60, 2) and "test/mean_squared_error" in slope.metrics
    with pytest.raises(wp.InputError, match="has no certified accuracy"):
        slope.table(slope.certify())


@pytest.mark.parametrize(
    ("model", "given", "options", "words"),
    [
        ("mondex", None, {}, "Did you mean 'mondeq'"),
        (3, None, {}, "model: is a int"),
        ("ignn", None, {}, "takes graphs, and the data are vectors"),
        (nn.Linear(3, 5), None, {}, r"gives the shape \(2, 5\) for two inputs; the data need a tensor of shape \(2, 2\)"),
        (nn.LSTM(3, 2), None, {}, "model: gives a tuple for two inputs; the data need a tensor"),
        (nn.Linear(3, 2).requires_grad_(False), None, {}, "model: has no parameter that can be trained"),
        (nn.Linear(4, 2), None, {}, r"does not take inputs of shape \(batch, 3\)"),
        ("mondeq", 3, {}, "data: is a int"),
        ("mondeq", ["a", "b", "c"], {}, "samples are no pairs"),
        ("mondeq", None, {"epochs": 0}, "must be at least 1"),
        ("mondeq", None, {"patience": 1, "validation": 0.0}, "needs validation samples"),
        ("mondeq", None, {"task": "ranking"}, "task='ranking'"),
        ("mondeq", None, {"epoch": 3}, "Did you mean 'epochs'"),
        ("mondeq", (np.ones((4, 3)), np.arange(5)), {}, "y_train: has 5 targets for the 4 samples"),
        ("mondeq", (np.ones((4, 3)), ["a", "b", "a", "b"]), {}, "y_train: has the dtype"),
        ("mondeq", ([[1.0], [1.0, 2.0]], [0, 1]), {}, "x_train: is no array of one shape"),
    ],
)  # fmt: skip
def test_unusable_arguments(model, given, options, words):
    x = torch.rand(40, 3)
    with pytest.raises(wp.WellposedError, match=words):
        wp.train(model, (x, (x[:, 0] > 0.5).long()) if given is None else given, **options)


def test_parts_in_eval_mode_stay_so_while_others_train():
    x = torch.rand(40, 3)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].eval()
    wp.train(model, (x, (x[:, 0] > 0.5).long()), epochs=1, batch_size=8)
    assert not model[0].training and not model[0].running_mean.any()


def test_nothing_draws_from_the_global_generators():
    model, x, block = nn.Sequential(wp.MonDEQ(3, 4), nn.Linear(4, 2)), torch.rand(4, 3), Cell(0.2)
    state = torch.get_rng_state()
    wp.certify(model, inputs=x)
    wp.witness(model, x)
    wp.wrap(block, (3,), state_shape=(5,))
    assert torch.equal(state, torch.get_rng_state())


def test_worst_case_logits_within_a_radius_against_their_definition():
    logits, labels = torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([0])
    assert wp.losses.margin_logits(logits, labels, 3.0, 0.1).tolist()[0] == pytest.approx(
        [2.0, 1.0 + 0.3 * 2**0.5, 0.5 + 0.3 * 2**0.5]
    )
    assert wp.losses.certified_margins(logits, torch.tensor([1])).tolist() == [-1.0]
    head = nn.Linear(4, 3)
    constant = wp.losses.product_of_norms(head)
    assert constant.item() == pytest.approx(torch.linalg.matrix_norm(head.weight, 2).item(), rel=1e-4)
    x, step = torch.randn(50, 4), torch.randn(50, 4)
    moved = x + 0.1 * step / step.norm(dim=1, keepdim=True)
    worst = wp.losses.margin_logits(head(x), torch.zeros(50, dtype=torch.long), constant, 0.1)
    margins = wp.losses.certified_margins
    labels = torch.zeros(50, dtype=torch.long)
    assert (margins(head(moved), labels) >= margins(worst, labels) - 1e-5).all()
    worst.sum().backward()
    assert head.weight.grad is not None
    with pytest.raises(wp.InputError, match="labels: has shape"):
        wp.losses.margin_logits(logits, torch.tensor([0, 1]), 1.0, 0.1)


def test_an_own_loss_makes_the_constant_smaller(data):
    def loss(model, x, y):
        return nn.functional.cross_entropy(model(x), y) + 0.1 * wp.losses.product_of_norms(model)

    constants = []
    for own in (None, loss):
        torch.manual_seed(0)
        result = wp.train(wp.normalised(Branching(30, 2), data), data, epochs=4, learning_rate=0.02, loss=own)
        constants.append(result.certify().lipschitz)
    assert constants[1] < 0.7 * constants[0]


def test_lightning_trains_by_the_public_pieces_and_projects(data):
    layer = wp.PcDEQ(30, 6, parametrisation="projection")
    model = wp.normalised(nn.Sequential(layer, nn.Linear(6, 2)), data)
    module = wp.TrainingModule(model, data.task, learning_rate=0.05)
    samples = wp.TrainingData(data.divided(0.2), batch_size=64, seed=1)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=samples)
    assert {"train/loss", "validation/accuracy", "validation/loss"} <= set(trainer.callback_metrics)
    assert trainer.test(module, datamodule=samples, verbose=False)[0]["test/accuracy"] > 0.5
    first, second = ([batch[1] for batch in samples.train_dataloader()] for _ in range(2))
    assert sum(map(len, first)) == len(samples.data.train_y) and all(
        torch.equal(*pair) for pair in zip(first, second, strict=True)
    )
    wp.losses.project(model)
    assert all((parameter >= 0.0).all() for name, parameter in layer.named_parameters() if "constraint" in name)


def test_network_folders_on_the_command_line(trained, data, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    wp.save(trained, tmp_path / "net", input_shape=(30,))
    np.savez(tmp_path / "new.npz", x_test=data.test_x.numpy(), y_test=data.test_y.numpy())
    assert run(["certify", str(tmp_path / "net"), "--data", str(tmp_path / "new.npz"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    radii = wp.load(tmp_path / "net").radii(data.test_x, data.test_y)
    shares = [row["certified"] for row in told["rows"]]
    assert shares == [(radii >= row["radius"]).double().mean().item() for row in told["rows"]] and shares[0] > 0.3
    assert told["samples"] == 114 and "own units in new.npz" in told["units"]
    assert run(["certify", str(tmp_path / "net"), "--data", str(tmp_path / "new.npz")]) == 0
    assert "proved again from the files" in capsys.readouterr().out
    assert run(["verify", str(tmp_path / "net")]) == 0
    capsys.readouterr()
    for arguments, words in (
        (["certify"], "give --data FILE"),
        (["attack"], "is a network folder, not a run"),
        (["report"], "is a network folder, not a run"),
        (["certify", "--data", str(tmp_path / "none.npz")], "not found"),
        (["certify", "--data", str(tmp_path / "new.npz"), "--norm", "linf"], "norm='inf'"),
    ):
        assert run([arguments[0], str(tmp_path / "net"), *arguments[1:]]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    assert run(["verify", str(tmp_path)]) == 2
    certificate = tmp_path / "net" / "certificate.json"
    claim = json.loads(certificate.read_text())
    certificate.write_text(json.dumps({**claim, "lipschitz": 0.5 * claim["lipschitz"]}))
    assert run(["certify", str(tmp_path / "net"), "--data", str(tmp_path / "new.npz")]) == 1
    assert run(["verify", str(tmp_path / "net")]) == 2  # its digest tells


class Cell(nn.Module):
    """A user's f(z, x), as torchdeq takes it."""

    def __init__(self, scale):
        super().__init__()
        self.state, self.inject = nn.Linear(5, 5, bias=False), nn.Linear(3, 5)
        with torch.no_grad():
            self.state.weight.mul_(scale / torch.linalg.matrix_norm(self.state.weight, 2))

    def forward(self, z, x):
        return torch.tanh(self.state(z) + self.inject(x))


def test_a_wrapped_module_that_contracts_has_evidence():
    cell, x = Cell(0.9), torch.randn(7, 3)
    layer = wp.wrap(cell, (3,), state_shape=(5,), guaranteed=True)
    assert layer.contraction().factor == pytest.approx(0.9, rel=1e-5) and "contracts by 0.9" in repr(layer)
    solution = layer.solve(x)
    exact = torch.zeros(7, 5, dtype=torch.float64)
    double = Cell(0.9).double()
    double.load_state_dict({name: value.double() for name, value in cell.state_dict().items()})
    for _ in range(400):
        exact = double(exact, x.double())
    error = (solution.value.double() - exact).norm(dim=1)
    assert solution.converged.all() and (error <= solution.error_bound).all() and (solution.error_bound < 1e-2).all()
    value = layer(x)
    assert torch.allclose(value, exact.float(), atol=1e-3)
    value.sum().backward()
    exact_z = exact.detach().requires_grad_(False)
    unrolled = exact_z
    for _ in range(300):
        unrolled = double(unrolled, x.double())
    unrolled.sum().backward()
    assert torch.allclose(cell.state.weight.grad.double(), double.state.weight.grad, atol=1e-2)


def test_a_wrapped_module_may_have_layers_of_this_library():
    cell = Cell(0.5)
    cell.state = nn.Sequential(wp.Sandwich(5, 5), wp.OrthogonalLinear(5, 5), nn.Linear(5, 5, bias=False))
    with torch.no_grad():
        cell.state[2].weight.copy_(0.7 * torch.eye(5))
    layer = wp.wrap(cell, (3,), state_shape=(5,), guaranteed=True)
    assert layer.contraction().factor == pytest.approx(0.7, rel=1e-4)
    assert bool(layer.solve(torch.randn(4, 3)).converged.all())
    cell.state = wp.NEMON(5, 5)  # has no constant of that norm below one, or none at all
    layer = wp.wrap(cell, (3,), state_shape=(5,))
    with torch.no_grad():
        cell.state.injection.weight.mul_(1e3)
    with pytest.raises(wp.GuaranteeError, match="block"):
        layer.contraction()


def test_a_wrapped_module_without_proof_says_so():
    for block in (Cell(1.5), nn.Bilinear(5, 3, 5)):
        layer = wp.wrap(block, (3,), state_shape=(5,))
        assert "nothing is guaranteed" in repr(layer)
        with pytest.raises(wp.GuaranteeError, match="block"):
            wp.wrap(block, (3,), state_shape=(5,), guaranteed=True)
    assert wp.wrap(Cell(0.5), (3,), state_shape=(5,)).solve(torch.randn(2, 3)).error_bound is not None

    class Product(nn.Module):
        def forward(self, z, x):
            return 0.1 * z * x  # its constant in z depends on x: nothing holds for every x

    assert "nothing is guaranteed" in repr(wp.wrap(Product(), (4,)))
    assert wp.wrap(Product(), (4,)).solve(torch.ones(2, 4)).error_bound is None
    with pytest.raises(wp.CertificateError):
        wp.certify(nn.Sequential(nn.Linear(4, 4), wp.wrap(Product(), (4,))), inputs=torch.rand(2, 4))
    with pytest.raises(wp.InputError, match="block: is a function"):
        wp.wrap(lambda z, x: z, (3,))


class Stretching(nn.Module):
    """One number of the state, added to all five: its constant is √5 times that of the map that gives it."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Linear(5, 1, bias=False)
        nn.init.constant_(self.narrow.weight, 0.7 / 5**0.5)

    def forward(self, z, x):
        return self.narrow(z) + x


class Noisy(Cell):
    def forward(self, z, x):
        return super().forward(z, x) + torch.rand(1, 5)


def test_what_could_fool_the_proof_is_refused():
    hooked, inplace = Cell(0.5), Cell(0.5)
    hooked.register_forward_hook(lambda module, args, output: 3.0 * output)
    inplace.state = nn.Sequential(nn.Linear(5, 5), nn.ELU(alpha=9.0, inplace=True))
    for block, shape in ((Stretching(), (5,)), (Noisy(0.5), (3,)), (hooked, (3,)), (inplace, (3,))):
        layer = wp.wrap(block, shape, state_shape=(5,))
        with pytest.raises(wp.GuaranteeError):
            layer.contraction()
    z = torch.ones(1, 5)
    moved = Stretching()(z, torch.zeros(1, 5)) - Stretching()(torch.zeros(1, 5), torch.zeros(1, 5))
    assert moved.norm() > 1.5 * z.norm()  # it does not contract
    with pytest.raises(wp.InputError, match=r"one input has shape \(4,\)"):
        wp.wrap(Cell(0.5), (3,), state_shape=(5,))(torch.rand(2, 4))


def test_arrays_that_are_no_numbers_name_the_array():
    with pytest.raises(DataError, match="arrays: x_train: has the dtype"):
        from_arrays({"x_train": np.array([["a"], ["b"]]), "y_train": [0, 1]})


def test_wrapped_modules_refuse_inputs_that_are_no_numbers_of_floating_point():
    layer = wp.wrap(Cell(0.5), (3,), state_shape=(5,))
    x = torch.randn(4, 3)
    x[1, 0] = torch.nan
    for call in (layer, layer.solve):
        with pytest.raises(wp.InputError, match="x: has NaN or infinite entries"):
            call(x)
        for bad in ([1.0], torch.ones(4, 3, dtype=torch.long)):
            with pytest.raises(wp.InputError, match="^x.*(floating-point dtype|torch.Tensor)"):
                call(bad)


def test_wrapped_modules_take_any_batch():
    layer = wp.wrap(Cell(0.5), (3,), state_shape=(5,))
    x = torch.randn(2, 4, 3)
    expected = layer(x.reshape(8, 3))
    assert layer(x).shape == (2, 4, 5) and torch.allclose(layer(x).reshape(8, 5), expected)
    assert torch.allclose(layer(x[0, 0]), expected[0], atol=1e-4)
    solution = layer.solve(x, torch.ones(2, 4, 5))
    assert solution.converged.shape == (2, 4) and torch.allclose(solution.value.reshape(8, 5), expected, atol=1e-4)
    assert layer(x[:0]).shape == (0, 4, 5)
    with pytest.raises(wp.InputError, match="z0: has shape"):
        layer(x, torch.ones(8, 5))
    with pytest.raises(wp.InputError, match="x: has dtype torch.float64, the weights have torch.float32"):
        layer(x.double())


class Stored(nn.Module):
    """A block whose numbers are those of a buffer."""

    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("weight", 0.1 * torch.eye(3, dtype=dtype))

    def forward(self, z, x):
        return torch.tanh(z @ self.weight + x)


def test_wrapped_modules_run_in_the_precision_of_their_buffers():
    x = torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        value = wp.wrap(Stored(torch.float32), (3,))(x.bfloat16())
    assert value.dtype == torch.float32
    layer = wp.wrap(Stored(torch.float64), (3,))
    assert layer(x.double()).dtype == torch.float64
    with pytest.raises(wp.InputError, match="x: has dtype torch.float32, the weights have torch.float64"):
        layer(x)


def test_projections_want_a_module_or_parts():
    for bad in (None, 3, "model", torch.ones(2)):
        with pytest.raises(wp.InputError, match="model"):
            wp.losses.project(bad)


@pytest.mark.parametrize("inputs", [torch.empty(2, 3, device="meta"), torch.zeros(3), torch.tensor(1.0)])
def test_inputs_without_numbers_or_a_batch_are_refused(inputs):
    model = nn.Sequential(wp.MonDEQ(3, 4), nn.Linear(4, 2))
    with pytest.raises(wp.InputError, match="inputs: "):
        wp.certify(model, inputs=inputs)
    with pytest.raises(wp.InputError, match="x: "):
        wp.witness(model, inputs)
