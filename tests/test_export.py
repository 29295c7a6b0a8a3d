"""Networks as ONNX files: what onnxruntime computes from them is within their own bounds of what exact arithmetic gives."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.deployed_files import accepted, changed, claim_of, forge, refused, slopes, stored, written
from wellposed.activations import monotone_names
from wellposed.errors import CertificateError, InputError

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32


def session(path: Path) -> "onnxruntime.InferenceSession":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def assert_within_bounds(
    model: nn.Module, path: Path, shape: tuple[int, ...], scale: float = 1.0, largest: float = 1e-3
):
    """Batches of three sizes, against float64."""
    network = wp.export(model.eval(), path, input_shape=shape, tolerance=largest)
    run, exact = session(path), network.exact
    for batch in (1, 7, 128):
        x = scale * torch.randn(batch, *shape)
        logits, bound = run.run(["logits", "error_bound"], {"x": x.numpy()})
        reference = exact.bounded(x.double())
        error = (torch.from_numpy(logits).double() - reference.logits).flatten(1).norm(dim=1)
        assert bound.shape == (batch,) and logits.dtype == bound.dtype == np.float32
        assert bool((error <= torch.from_numpy(bound).double() + reference.error).all())
        assert bound.max() <= largest
        again = run.run(None, {"x": x[-1:].numpy()})[0]
        assert np.abs(again - logits[-1:]).max() <= 2.0 * bound[-1]


def headed(layer: nn.Module, features: int = 12) -> nn.Module:
    return nn.Sequential(layer, nn.Linear(features, 5))


LAYERS = {
    "mondeq": lambda: headed(wp.MonDEQ(6, 12, m=0.3)),
    "ill conditioned": lambda: headed(wp.MonDEQ(6, 12, m=0.02)),
    "lben": lambda: headed(wp.LBEN(6, 12)),
    "bounded": lambda: wp.LBEN(6, 12, gamma=2.0, out_features=5),
    "feedthrough": lambda: wp.LBEN(6, 12, gamma=2.0, out_features=5, feedthrough=True),
    "nemon": lambda: headed(wp.NEMON(6, 12)),
    "positive with a floor": lambda: headed(wp.PcDEQ(6, 12, activation="tanh")),
    "positive, normalised": lambda: headed(wp.PcDEQ(6, 12, activation="sigmoid", batch_norm=True)),
    "two layers": lambda: nn.Sequential(
        wp.MonDEQ(6, 12, m=0.5), nn.Linear(12, 6), nn.Tanh(), wp.NEMON(6, 8), nn.Linear(8, 3)
    ),
    "sandwich": lambda: nn.Sequential(wp.Sandwich(6, 8), wp.SLL(8, 16), wp.Residual(8, 16), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_vectors(name: str, scale: float, tmp_path: Path):
    torch.manual_seed(0)
    assert_within_bounds(LAYERS[name](), tmp_path / "model.onnx", (6,), scale, largest=1e-3 * scale)


@pytest.mark.parametrize("sigma", monotone_names())
def test_activations_in_layers(sigma: str, tmp_path: Path):
    torch.manual_seed(1)
    assert_within_bounds(headed(wp.MonDEQ(6, 12, m=0.3, activation=sigma)), tmp_path / "model.onnx", (6,))


IMAGES = {
    "convolution": nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)),
    "dilated": nn.Conv2d(2, 3, 3, dilation=2, bias=False),
    "average": nn.AvgPool2d((2, 3)),
    "maximum": nn.MaxPool2d(3, 2),
    "unit": wp.UnitPool2d(3),
    "batch norm": nn.BatchNorm2d(2),
    "normalize": wp.Normalize((0.3, 0.1), (0.2, 0.5)),
    "sorted": wp.GroupSort(dim=-3),
    "sorted rows": wp.GroupSort(dim=-1),
    "sorted triples": wp.GroupSort(3, dim=-2),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "relu6": nn.ReLU6(),
    "dropout": nn.Dropout(),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str, tmp_path: Path):
    torch.manual_seed(2)
    block = IMAGES[name]
    if name == "batch norm":
        block.running_mean.normal_()
        block.running_var.uniform_(0.5, 2.0)
    features = block.eval()(torch.zeros(1, 2, 6, 6)).numel()
    assert_within_bounds(nn.Sequential(block, nn.Flatten(), nn.Linear(features, 4)), tmp_path / "model.onnx", (2, 6, 6))


def test_branches(tmp_path: Path):
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 5), wp.MonDEQ(6, 5, m=0.5)

        def forward(self, x):
            return 0.5 * (-self.first(x) + self.second(x)) - 0.25

    torch.manual_seed(3)
    assert_within_bounds(Summed(), tmp_path / "model.onnx", (6,))


def test_numbers_of_a_float64_model_are_rounded_first(tmp_path: Path):
    torch.manual_seed(4)
    model = headed(wp.MonDEQ(6, 12, dtype=torch.float64)).double().eval()
    network = wp.export(model, tmp_path / "model.onnx")
    assert network.dtype == torch.float32 and model[1].weight.dtype == torch.float64
    stored = onnx.load(tmp_path / "model.onnx").graph.initializer
    assert all(tensor.data_type in (1, 7) or not tensor.dims for tensor in stored)


def test_an_error_above_the_tolerance_is_refused(tmp_path: Path):
    torch.manual_seed(5)
    model = headed(wp.MonDEQ(6, 12, m=0.3)).eval()
    wp.export(model, tmp_path / "model.onnx", tolerance=1e-9)
    bound = session(tmp_path / "model.onnx").run(["error_bound"], {"x": np.ones((3, 6), np.float32)})[0]
    assert np.isinf(bound).all()
    wp.export(model, tmp_path / "model.onnx", tolerance=1e-2)
    x = np.ones((3, 6), np.float32)
    x[1, 2], x[2, 0] = np.nan, np.inf
    bound = session(tmp_path / "model.onnx").run(["error_bound"], {"x": x})[0]
    assert bound[0] <= 1e-2 and np.isinf(bound[1:]).all()


def test_too_few_iterations_are_counted(tmp_path: Path):
    torch.manual_seed(6)
    model = headed(wp.MonDEQ(6, 12, m=0.1)).eval()
    network = wp.export(model, tmp_path / "model.onnx", tolerance=100.0)
    proto = onnx.load(tmp_path / "model.onnx")
    limit = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("limit"))
    limit.CopyFrom(onnx.numpy_helper.from_array(np.array(3), limit.name))
    onnx.save(proto, tmp_path / "model.onnx")
    x = torch.randn(50, 6)
    logits, bound = session(tmp_path / "model.onnx").run(None, {"x": x.numpy()})
    error = (torch.from_numpy(logits).double() - network.exact(x.double())).norm(dim=1)
    assert error.min() > 1e-4 and bool((error <= torch.from_numpy(bound)).all()) and np.isfinite(bound).all()


def test_the_same_network_gives_the_same_bytes(tmp_path: Path):
    torch.manual_seed(7)
    model = headed(wp.MonDEQ(6, 12)).eval()
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    wp.export(model, first)
    wp.export(wp.materialise(model), second)
    assert first.read_bytes() == second.read_bytes()


def test_refusals(tmp_path: Path):
    with pytest.raises(InputError, match="tolerance"):
        wp.export(headed(wp.MonDEQ(6, 12)).eval(), tmp_path / "m.onnx", tolerance=0.0)
    with pytest.raises(InputError, match="input_shape"):
        wp.export(nn.Sequential(nn.Conv2d(1, 1, 3)).eval(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="path"):
        wp.export(headed(wp.MonDEQ(6, 12)).eval(), tmp_path / "none" / "m.onnx")
    with pytest.raises(CertificateError, match="float64"):
        wp.export(wp.materialise(headed(wp.MonDEQ(6, 12)).double().eval()), tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["mondeq", "positive with a floor", "feedthrough", "sandwich"])
def test_a_fixed_number_of_iterations(name: str):
    torch.manual_seed(8)
    model = LAYERS[name]().eval()
    network, x = wp.materialise(model, (6,)), torch.randn(9, 6)
    exact = network.exact(x.double())
    last = None
    for steps in (3, 12, 60):
        logits, bound = wp.deployable(network, steps)(x)
        error = (logits.double() - exact).norm(dim=1)
        assert bool((error <= bound.double() + 1e-8).all())
        last = bound
    assert bool((last <= 1e-3).all())


def test_what_torch_makes_of_it():
    torch.manual_seed(9)
    module = wp.deployable(headed(wp.MonDEQ(6, 12, m=0.5)).eval(), 25)
    x = torch.randn(5, 6)
    logits, bound = module(x)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: batch},)).module()
    found = {
        "export": exported(torch.cat([x, x])),
        "trace": torch.jit.trace(module, (x,))(torch.cat([x, x])),
        "script": torch.jit.script(module)(torch.cat([x, x])),
        "compile": torch.compile(module, fullgraph=True, backend="eager")(torch.cat([x, x])),
    }
    for value, error in found.values():
        assert torch.allclose(value[:5], logits, atol=1e-6) and torch.allclose(error[:5], bound, atol=1e-6, rtol=0.1)
    assert wp.materialise(headed(wp.MonDEQ(6, 12)))  # also after torch.compile has marked torch's own classes


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "layer", [wp.MonDEQ(4, 5), wp.NEMON(4, 5), wp.PcDEQ(4, 5), wp.OrthogonalDEQ(4, 6), wp.LBEN(4, 5)]
)
def test_a_live_layer_is_not_traced(layer: nn.Module):
    with pytest.raises(InputError, match="deployable"):
        torch.jit.trace(layer.eval(), (torch.randn(2, 4),))


def test_bounds_of_tiny_logits_are_not_lost_in_the_cast(tmp_path: Path):
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).eval()
    nn.init.constant_(model[0].weight, 0.3)
    wp.export(model, tmp_path / "m.onnx", input_shape=(1,))
    x = np.array([[1e-45], [1e-40], [7e-39]], np.float32)
    logits, bound = session(tmp_path / "m.onnx").run(None, {"x": x})
    exact = x.astype(np.float64) * float(model[0].weight)
    assert (np.abs(logits - exact)[:, 0] <= bound).all()


NOT_NUMBERS = {
    "maximum": lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2)),
    "average": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)),
    "sorted channels": lambda: nn.Sequential(wp.GroupSort(dim=-3), nn.Flatten(), nn.Linear(32, 2)),
    "sorted": lambda: nn.Sequential(nn.Flatten(), wp.GroupSort(), nn.Linear(16, 2)),
    "clamped": lambda: nn.Sequential(nn.Flatten(), nn.Hardtanh(), nn.Linear(16, 2)),
    "cell": lambda: nn.Sequential(nn.Flatten(), wp.OrthogonalDEQ(16, 8), nn.Linear(8, 2)),
    "positive": lambda: nn.Sequential(nn.Flatten(), wp.PcDEQ(16, 8), nn.Linear(8, 2)),
    "image": lambda: nn.Sequential(wp.ConvNEMON(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 2)),
    "unseen": lambda: nn.Sequential(nn.Conv2d(1, 2, 1, stride=2), nn.Flatten(), nn.Linear(8, 2)),
}


@pytest.mark.parametrize("name", NOT_NUMBERS)
@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
def test_no_answer_where_an_entry_is_no_number(name: str, entry: float, tmp_path: Path):
    torch.manual_seed(10)
    channels = 2 if name == "sorted channels" else 1
    wp.export(NOT_NUMBERS[name]().eval(), tmp_path / "m.onnx", input_shape=(channels, 4, 4), tolerance=1e3)
    count = 16 * channels
    x = np.zeros((count, count), np.float32)
    x[range(count), range(count)] = entry
    bound = session(tmp_path / "m.onnx").run(["error_bound"], {"x": x.reshape(count, channels, 4, 4)})[0]
    assert np.isinf(bound).all()


@pytest.mark.parametrize("name", ["ReflectedEquilibrium_tanh", "PositiveEquilibrium_tanh"])
def test_bodies_do_not_shadow_names(name: str):
    from wellposed.checker.functions import function

    nodes = function(name).node
    outer = {output for node in nodes for output in node.output}
    for node in nodes:
        for attribute in node.attribute:
            assert not outer & {output for inner in attribute.g.node for output in inner.output} - set(node.output)


@pytest.mark.parametrize("sigma", [*monotone_names(), "silu", "gelu"])
def test_what_is_assumed_of_a_runtime(sigma: str):
    from onnx import TensorProto, helper

    from wellposed.activations import activation
    from wellposed.checker.functions import DOMAIN, IR_VERSION, OPSET, VERSION, assumed, called, function

    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n"]) for name in "vs"]
    graph = helper.make_graph([helper.make_node(sigma, ["v"], ["s"], domain=DOMAIN)], "g", ends[:1], ends[1:])
    model = helper.make_model(
        graph, functions=[function(name) for name in called(sigma)], ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
    )  # fmt: skip
    run = onnxruntime.InferenceSession(model.SerializeToString())
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (200_000,), generator=generator).double() * 2.0 - 1.0
    v = signs * 10.0 ** (torch.rand(200_000, generator=generator, dtype=torch.float64) * 24.0 - 18.0)
    found = torch.from_numpy(run.run(None, {"v": v.numpy()})[0])
    off = (found - activation(sigma)(v)).abs() / (1.0 + v.abs())
    assert float(off.max()) <= 0.5 * float(assumed(sigma)) + 1e-15


def test_subnormal_weights_are_refused(tmp_path: Path):
    model = headed(wp.MonDEQ(6, 12, m=0.3)).eval()
    with torch.no_grad():
        model[1].weight[0, 0] = 1e-40
    with pytest.raises(CertificateError, match="Linear_3.weight: has subnormal float32 entries"):
        wp.export(model, tmp_path / "m.onnx")


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_sorted_groups_are_proved(norm: str, tmp_path: Path):
    torch.manual_seed(11)
    model = nn.Sequential(nn.Linear(6, 12), wp.GroupSort(3), nn.Linear(12, 12), wp.GroupSort(4), nn.Linear(12, 3))
    certificate = written(model, tmp_path, (6,), norm=norm)
    accepted(tmp_path)
    claimed = claim_of(tmp_path)["lipschitz"]
    assert slopes(certificate.network, (6,), norm)[0] <= claimed <= certificate.lipschitz * (1.0 + 1e-6)
    forge(
        tmp_path, model=lambda m: changed(stored(m, "SortedGroups_2.split"), lambda a: a[[0, 1, 3, 2]] + [0, 0, 0, 1])
    )
    refused(tmp_path, "shapes: ")
