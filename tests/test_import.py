"""Published checkpoint layouts: the matrices satisfy the conditions of their parametrisations, and runs come out of them."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import scipy.io
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.constraints.lipschitz_condition import lipschitz_matrix
from wellposed.data import load_images
from wellposed.errors import CheckpointError
from wellposed.interop import read_dense
from wellposed.interop.dense import LAYOUTS as DENSE
from wellposed.training.run import load_image_run

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]

H, D, K = 6, 9, 4


def tensors_of(layout, inputs=D, classes=K, dtype=torch.float64):
    torch.manual_seed(0)
    square = {name: testing.randn(H, H, dtype=dtype) / H**0.5 for name in ("A", "B", "V", "S", "W")}
    u, ub = testing.randn(H, inputs, dtype=dtype) / inputs**0.5, testing.randn(H, dtype=dtype)
    o, ob = testing.randn(classes, H, dtype=dtype) / H**0.5, testing.randn(classes, dtype=dtype)
    ends = {"U.weight": u, "U.bias": ub}
    head = {"Wout.weight": o, "Wout.bias": ob}
    bounded = {"B.weight": u, "B.bias": ub, "G.weight": o, "G.bias": ob, "V": square["V"], "S": square["S"]}
    positive = 0.5 + testing.rand(H, dtype=dtype)
    inner, outer = {
        "locuslab-mondeq": ({**ends, "A.weight": square["A"], "B.weight": square["B"]}, head),
        "lben-mondeq": ({**ends, "A.weight": square["A"], "B.weight": square["B"]}, head),
        "lben-unconstrained": ({**ends, "Wp": 0.3 * square["W"]}, head),
        "lben": ({**ends, "V": square["V"], "S": square["S"], "psi": positive.log()}, head),
        "lben-lambda": ({**ends, "V": square["V"], "S": square["S"], "Lambda": positive}, head),
        "lben-gamma": ({**bounded, "psi": positive.log()}, {}),
        "lben-gamma-lambda": ({**bounded, "Lambda": positive}, {}),
    }[layout]
    return {**{f"mon.linear_module.{name}": tensor for name, tensor in inner.items()}, **outer}


@pytest.mark.parametrize("layout", [layout for layout in DENSE if layout != "semialgebraic"])
def test_the_matrices_satisfy_their_conditions(layout, tmp_path):
    """The least eigenvalues that the parametrisations promise: 2m for current ones, m for the old one with a bound."""
    path = tmp_path / "fc_lip0.7_w6.params"
    torch.save(tensors_of(layout), path)
    m = 1.5
    found = read_dense(path, layout, m=m)
    assert found.matrix.shape == (H, H) and found.weight.shape == (H, D) and found.output.shape == (K, H)
    eye = testing.eye(H, dtype=torch.float64)
    half = (eye - found.matrix) if found.metric is None else found.metric[:, None] * (eye - found.matrix)
    least = float(torch.linalg.eigvalsh(half + half.t())[0])
    if layout in ("locuslab-mondeq", "lben-mondeq"):
        assert least >= 2.0 * m - 1e-9
    elif layout in ("lben", "lben-lambda"):
        gram = half + half.t() - 2.0 * m * eye
        assert torch.allclose(gram, 2.0 * (v := tensors_of(layout)["mon.linear_module.V"]).t() @ v)
    elif layout.startswith("lben-gamma"):
        test = lipschitz_matrix(found.matrix, found.weight, found.output, found.metric, 0.7)
        v = tensors_of(layout)["mon.linear_module.V"]
        expected = 2.0 * (v.t() @ v + m * eye) if layout == "lben-gamma" else v.t() @ v + m * eye
        torch.testing.assert_close(test, expected)
        other = read_dense(path, layout, m=m, gamma=2.0)
        assert not torch.allclose(other.matrix, found.matrix)


@pytest.mark.parametrize("layout", ["locuslab-mondeq", "lben-gamma", "lben"])
def test_runs_are_certified_attacked_and_verified(layout, tmp_path, capsys):
    file, out = tmp_path / "digits_lip2.pt", tmp_path / "run"
    torch.save(tensors_of(layout, inputs=64, classes=10, dtype=torch.float32), file)
    assert (
        command(["import", str(file), "--as", layout, "--m", "1", "--data", "digits", "--out", str(out), "--json"]) == 0
    )
    assert 0.0 < json.loads(capsys.readouterr().out)["test_error"] <= 1.0
    _, data, model = load_image_run(out, None)
    weights = read_dense(file, layout, m=1.0)
    layer = next(part for part in model.modules() if isinstance(part, wp.Equilibrium))
    torch.testing.assert_close(layer.operator().dense().double(), weights.matrix, rtol=1e-5, atol=1e-5)
    x = model[0](data.test_x[:20]).flatten(1).double()
    state = layer.state(x.float()).double()
    expected = torch.relu(state @ weights.matrix.t() + x @ weights.weight.t() + weights.bias)
    torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-4)
    assert command(["certify", str(out), "--limit", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lipschitz"] > 0.0
    assert command(["verify", str(out / "certificate.json"), str(out / "model.onnx")]) == 0
    assert "the certificate holds" in capsys.readouterr().out
    assert command(["certify", str(out), "--limit", "5", "--method", "ladder", "--eps", "0.01", "--json"]) == 0


def drawn(*shape):
    return testing.randn(*shape) / max(1, torch.Size(shape).numel() // shape[0]) ** 0.5


def imported(file, layout, out, m):
    assert (
        command(["import", str(file), "--as", layout, "--m", str(m), "--data", "digits", "--out", str(out), "--json"])
        == 0
    )
    _, data, model = load_image_run(out, None)
    layer = next(part for part in model.modules() if isinstance(part, wp.Equilibrium))
    return data, model.eval(), layer


def circular(image, kernel, stride=1):
    return nn.functional.conv2d(nn.functional.pad(image, (1, 1, 1, 1), mode="circular"), kernel, stride=stride)


def transposed(function, like, value):
    """The adjoint of a linear function, by reverse differentiation."""
    return torch.func.vjp(function, torch.zeros_like(like))[1](value)[0]


def test_a_single_convolution_as_published(tmp_path):
    torch.manual_seed(0)
    t = {
        "U.weight": drawn(3, 1, 3, 3), "U.bias": drawn(3), "A.weight": drawn(3, 3, 3, 3), "B.weight": drawn(3, 3, 3, 3),
        "g": testing.tensor(1.7), "h": testing.tensor(-2.3),
    }  # fmt: skip
    head = {"Wout.weight": drawn(10, 3 * 2 * 2), "Wout.bias": drawn(10)}
    torch.save({**{f"mon.linear_module.{name}": part for name, part in t.items()}, **head}, tmp_path / "a.pt")
    data, model, layer = imported(tmp_path / "a.pt", "locuslab-mondeq-conv", tmp_path / "run", 0.8)
    a, b = (t[f"{name}.weight"] / t[f"{name}.weight"].norm() for name in "AB")
    b = t["h"] * b
    x = model[0](data.test_x[:4])  # normalised
    x = x.reshape(4, 1, 8, 8)
    z = layer.state(x)
    inside = testing.zeros(1, 1, 10, 10)
    inside[..., 1:-1, 1:-1] = 1.0
    driven = circular(nn.functional.pad(x, (1, 1, 1, 1)), t["U.weight"]) + t["U.bias"].reshape(-1, 1, 1)
    right = 0.2 * z - t["g"] * transposed(lambda v: circular(v, a), z, circular(z, a))
    right = right + circular(z, b) - transposed(lambda v: circular(v, b), z, z) + driven
    torch.testing.assert_close(z, inside * torch.relu(right), rtol=1e-2, atol=2e-3)
    logits = nn.functional.avg_pool2d(z, 4).flatten(1) @ head["Wout.weight"].t() + head["Wout.bias"]
    torch.testing.assert_close(model(data.test_x[:4]), logits, rtol=1e-3, atol=1e-3)
    assert command(["certify", str(tmp_path / "run"), "--limit", "5", "--json"]) == 0
    torch.save({**torch.load(tmp_path / "a.pt"), "mon.linear_module.g": testing.tensor(-1.0)}, tmp_path / "bad.pt")
    assert command(["import", str(tmp_path / "bad.pt"), "--as", "locuslab-mondeq-conv", "--data", "digits"]) == 2


def test_several_tiers_as_published(tmp_path):
    torch.manual_seed(1)
    widths = (2, 3, 4)
    t = {"U.weight": drawn(2, 1, 3, 3), "U.bias": drawn(2)}
    for tier, width in enumerate(widths):
        t |= {f"A0.{tier}.weight": drawn(width, width, 3, 3), f"B0.{tier}.weight": drawn(width, width, 3, 3)}
        t |= {f"g.{tier}": testing.tensor(1.0 + tier), f"h.{tier}": testing.tensor(0.5 - tier)}
        if tier < 2:
            t |= {f"A_n0.{tier}.weight": drawn(widths[tier + 1], width, 3, 3), f"gn.{tier}": testing.tensor(1.5)}
    head = {"Wout.weight": drawn(10, 4 * 4 * 4), "Wout.bias": drawn(10)}
    torch.save({**{f"mon.linear_module.{name}": part for name, part in t.items()}, **head}, tmp_path / "a.pt")
    data, model, layer = imported(tmp_path / "a.pt", "locuslab-mondeq-multi", tmp_path / "run", 1.0)

    def kernel(name, tier, scale):
        weight = t[f"{name}.{tier}.weight"]
        return scale * weight / weight.norm()

    a = [kernel("A0", i, t[f"g.{i}"].sqrt()) for i in range(3)]
    b = [kernel("B0", i, t[f"h.{i}"]) for i in range(3)]
    d = [kernel("A_n0", i, t[f"gn.{i}"].sqrt()) for i in range(2)]
    x = model[0](data.test_x[:4]).reshape(4, 1, 8, 8)
    z = layer.tiers(layer.state(x))
    assert [part.shape[-1] for part in z] == [10, 6, 4]
    for tier, image in enumerate(z):
        right = -transposed(lambda v, k=a[tier]: circular(v, k), image, circular(image, a[tier]))
        right = right + circular(image, b[tier]) - transposed(lambda v, k=b[tier]: circular(v, k), image, image)
        if tier < 2:
            down = circular(image, d[tier], 2)
            right = right - transposed(lambda v, k=d[tier]: circular(v, k, 2), image, down)
        if tier:
            below = nn.functional.pad(circular(z[tier - 1], d[tier - 1], 2), (0, 1, 0, 1))
            right = right - 2.0 * transposed(lambda v, k=a[tier]: circular(v, k), image, below)
        else:
            driven = circular(nn.functional.pad(x, (1, 1, 1, 1)), t["U.weight"]) + t["U.bias"].reshape(-1, 1, 1)
            right = right + driven
        inside = torch.zeros_like(image)
        inside[..., 1:-1, 1:-1] = 1.0
        torch.testing.assert_close(image, inside * torch.relu(right), rtol=1e-2, atol=3e-3)
    logits = z[2].flatten(1) @ head["Wout.weight"].t() + head["Wout.bias"]
    torch.testing.assert_close(model(data.test_x[:4]), logits, rtol=1e-3, atol=1e-3)
    assert command(["certify", str(tmp_path / "run"), "--limit", "5", "--json"]) == 0


@pytest.mark.parametrize("layout", ["nemon", "nemon-robust"])
def test_non_euclidean_networks_as_published(layout, tmp_path):
    torch.manual_seed(2)
    free, d, a = drawn(H, H), 0.3 * testing.randn(H), testing.randn(H) * (layout == "nemon-robust")
    free[0, 0] = 0.7  # a row without slack, but for a
    head = {"Wout.weight": drawn(10, H), "Wout.bias": drawn(10)}
    if layout == "nemon":
        t = {"mon.linear_module.A.weight": free, "mon.linear_module.d": d}
        t |= {"mon.linear_module.U.weight": drawn(H, 64), "mon.linear_module.U.bias": drawn(H)}
    else:
        t = {"nemon.linear_module.M.weight": free, "nemon.linear_module.eta": d, "nemon.linear_module.a": a}
        t |= {"nemon.linear_module.U.M.weight": drawn(H, 64), "nemon.linear_module.U.M.bias": drawn(H)}
    torch.save({**t, **head}, tmp_path / "a.pt")
    _, model, layer = imported(tmp_path / "a.pt", layout, tmp_path / "run", -0.1)
    eta = d.exp()
    expected = free * eta / eta[:, None] - torch.diag(free.abs().sum(1) + a.square() + 0.1)
    torch.testing.assert_close(layer.operator().dense().detach(), expected, rtol=1e-5, atol=1e-6)
    assert isinstance(layer, wp.NEMON)
    assert wp.certify(model, norm="inf").lipschitz > 0.0
    assert command(["certify", str(tmp_path / "run"), "--limit", "5", "--json"]) == 0
    assert command(["import", str(tmp_path / "a.pt"), "--as", layout, "--m", "1", "--data", "digits"]) == 2


SIGMA = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "softsign": nn.functional.softsign, "relu6": nn.functional.relu6}


def positive_part(value, activation):
    """As published: ReLU before the sigmoid, else softplus with β = 5."""
    return torch.relu(value) if activation == "sigmoid" else nn.functional.softplus(value, beta=5)


@pytest.mark.parametrize("activation", SIGMA)
def test_a_positive_concave_network_as_published(activation, tmp_path):
    torch.manual_seed(3)
    layout = "pcdeq2" if activation == "sigmoid" else f"pcdeq1-{activation}"
    normal = {"weight": testing.rand(H) + 0.5, "bias": testing.randn(H)}
    normal |= {"running_mean": testing.randn(H), "running_var": testing.rand(H) + 0.1}
    t = {
        "linear1.weight": drawn(H, 64), "linear1.bias": drawn(H), "block.deq.f.W.weight_g": testing.rand(H, 1) * 3.0,
        "block.deq.f.W.weight_v": testing.rand(H, H), "classifier.weight": drawn(10, H), "classifier.bias": drawn(10),
    }  # fmt: skip
    for name in ("bn1", "bn2"):
        t |= {f"{name}.{key}": part for key, part in normal.items()}
        t[f"{name}.num_batches_tracked"] = testing.tensor(7)
    torch.save(t, tmp_path / "a.pt")
    data, model, layer = imported(tmp_path / "a.pt", layout, tmp_path / "run", 1.0)

    def normalised(value):
        scale = normal["weight"] / (normal["running_var"] + 1e-5).sqrt()
        return (value - normal["running_mean"]) * scale + normal["bias"]

    x = data.test_x[:6].flatten(1)  # pixels as they are
    offset = positive_part(normalised(x @ t["linear1.weight"].t() + t["linear1.bias"]), activation)
    v = t["block.deq.f.W.weight_v"]
    weight = t["block.deq.f.W.weight_g"] * v / v.norm(dim=1, keepdim=True)
    z = testing.zeros(6, H)
    for _ in range(400):
        z = SIGMA[activation](z @ weight.t() + offset)
    torch.testing.assert_close(layer.state(x), z, rtol=1e-3, atol=1e-3)
    logits = normalised(z) @ t["classifier.weight"].t() + t["classifier.bias"]
    torch.testing.assert_close(model(data.test_x[:6]), logits, rtol=1e-2, atol=1e-2)
    assert command(["certify", str(tmp_path / "run"), "--limit", "5", "--json"]) == 0
    t["block.deq.f.W.weight_v"][0, 0] = -1.0
    torch.save(t, tmp_path / "bad.pt")
    assert command(["import", str(tmp_path / "bad.pt"), "--as", layout, "--data", "digits"]) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "A.weight": testing.zeros(0, 0, 3, 3), "B.weight": testing.zeros(0, 0, 3, 3)},
        lambda t: {**t, "Wout.weight": testing.zeros(10, 0)},
        lambda t: {**t, "A.weight": t["A.weight"].to_sparse()},
    ],
)
def test_empty_and_sparse_tensors_are_refused(change, tmp_path, capsys):
    t = {
        "A.weight": drawn(3, 3, 3, 3),
        "B.weight": drawn(3, 3, 3, 3),
        "U.weight": drawn(3, 1, 3, 3),
        "U.bias": drawn(3),
    }
    t |= {"g": testing.tensor(1.0), "h": testing.tensor(1.0), "Wout.weight": drawn(10, 75), "Wout.bias": drawn(10)}
    torch.save(change(t), tmp_path / "a.pt")
    assert command(["import", str(tmp_path / "a.pt"), "--as", "lben-conv", "--data", "digits"]) == 2
    assert capsys.readouterr().err.startswith("wellposed: ")


def batch_norm(channels):
    found = {"weight": testing.rand(channels) + 0.5, "bias": testing.randn(channels)}
    found |= {"running_mean": testing.randn(channels), "running_var": testing.rand(channels) + 0.1}
    return found, {"num_batches_tracked": testing.tensor(3)}


def positive_by_hand(image, t, name, norm, block, stride, padding, activation):
    """One published convolutional block in eval mode, by plain iteration."""

    def normalised(value, name):
        shaped = {
            key: t[f"{name}.{key}"].reshape(-1, 1, 1) for key in ("weight", "bias", "running_mean", "running_var")
        }
        scale = shaped["weight"] / (shaped["running_var"] + 1e-5).sqrt()
        return (value - shaped["running_mean"]) * scale + shaped["bias"]

    driven = nn.functional.conv2d(image, t[f"{name}.weight"], t[f"{name}.bias"], stride=stride, padding=padding)
    offset = positive_part(normalised(driven, f"bn{norm}"), activation)
    v, g = t[f"{block}.deq.f.W.weight_v"], t[f"{block}.deq.f.W.weight_g"]
    kernel = g * v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    z = torch.zeros_like(offset)
    for _ in range(300):
        z = SIGMA[activation](nn.functional.conv2d(z, kernel, padding=1) + offset)
    return normalised(nn.functional.max_pool2d(z, 3, 1, 1), f"bn{norm + 1}")


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("activation", ["sigmoid", "softsign"])
def test_positive_concave_convolutions_as_published(several, activation, tmp_path, monkeypatch):
    torch.manual_seed(4)
    size, widths = (28, (2, 3, 4)) if several else (8, (3,))
    maps = ("conv1", "downsample1", "downsample2")[: len(widths)]
    blocks = [f"block{k + 1}" for k in range(3)] if several else ["block"]
    t, before = {}, 1
    for k, (name, block, channels) in enumerate(zip(maps, blocks, widths, strict=False)):
        t |= {f"{name}.weight": drawn(channels, before, 3, 3), f"{name}.bias": drawn(channels)}
        t |= {f"{block}.deq.f.W.weight_g": 2.0 * testing.rand(channels, 1, 1, 1)}
        t |= {f"{block}.deq.f.W.weight_v": testing.rand(channels, channels, 3, 3)}
        for norm in (2 * k + 1, 2 * k + 2):
            for part in batch_norm(channels):
                t |= {f"bn{norm}.{key}": value for key, value in part.items()}
        before = channels
    t |= {"classifier.weight": drawn(10, widths[-1]), "classifier.bias": drawn(10)}
    torch.save(t, tmp_path / "a.pt")
    if several:  # three tiers need larger images than the digits are
        digits = load_images("digits")
        large = {part: nn.functional.interpolate(getattr(digits, part)[:50], size) for part in ("train_x", "test_x")}
        few = replace(digits, train_y=digits.train_y[:50], test_y=digits.test_y[:50], **large)
        for module in ("wellposed.experiments.imported", "wellposed.data.collection"):
            monkeypatch.setattr(f"{module}.load_images", lambda *_: few)
    layout = "pcdeq2" if activation == "sigmoid" else f"pcdeq1-{activation}"
    layout += "-multi" if several else "-conv"
    data, model, _ = imported(tmp_path / "a.pt", layout, tmp_path / "run", 1.0)
    image = data.test_x[:4]
    for k, (name, block) in enumerate(zip(maps, blocks, strict=False)):
        image = positive_by_hand(image, t, name, 2 * k + 1, block, 1 if k == 0 else 2, 1 if k == 0 else 0, activation)
    features = nn.functional.avg_pool2d(image, 4 if several else 8).flatten(1)
    logits = features @ t["classifier.weight"].t() + t["classifier.bias"]
    torch.testing.assert_close(model(data.test_x[:4]), logits, rtol=1e-3, atol=3e-3)
    t[f"{blocks[-1]}.deq.f.W.weight_v"][0, 0, 0, 0] = -1.0
    torch.save(t, tmp_path / "bad.pt")
    assert command(["import", str(tmp_path / "bad.pt"), "--as", layout, "--data", "digits"]) == 2


@pytest.mark.parametrize(
    ("layout", "metric"),
    [
        *(("lben-conv", metric) for metric in ("full", "channels", "image", "none")),
        *(("lben-conv-gamma", metric) for metric in ("full", "channels", "identity")),
        *(("lben-conv-gamma-raw", metric) for metric in ("image", "channels", "none")),
    ],
)
def test_bounded_convolutions_as_published(layout, metric, tmp_path):
    torch.manual_seed(5)
    channels, size, gamma, m = 3, 10, 2.0, 0.3
    bounded, scaled = layout != "lben-conv", layout == "lben-conv-gamma"
    t = {name: drawn(channels, channels, 3, 3) for name in ("A.weight", "B.weight")}
    t |= {"U.weight": drawn(channels, 1, 3, 3), "U.bias": drawn(channels)}
    a, b = testing.tensor(1.3), testing.tensor(-0.7)
    t |= {"a": a, "b": b, "u": testing.tensor(0.6), "g": testing.tensor(1.9)} if scaled else {"g": a, "h": b}
    shape = {
        "full": (channels, size, size), "channels": (channels, 1, 1), "image": (1, size, size), "identity": (1, 1, 1),
    }.get(metric)  # fmt: skip
    if shape is not None:
        t["psi"] = 0.3 * testing.randn(1, *shape)
    psi = testing.ones(1, 1, 1) if metric in ("identity", "none") else t["psi"][0].exp()
    head = {"Wout.weight": drawn(10, channels * 25), "Wout.bias": drawn(10)}
    inner = {**t, **head} if bounded else t
    file = {f"mon.linear_module.{name}": part for name, part in inner.items()} | ({} if bounded else head)
    path = tmp_path / "conv_L2_w3.params"
    torch.save(file, path)
    data, model, layer = imported(path, layout, tmp_path / "run", m)
    unit = {name: t[f"{name}.weight"] / t[f"{name}.weight"].norm() for name in ("A", "B", "U")}
    v, s = unit["A"], b * unit["B"]
    u = t["u"].sqrt() * unit["U"] if scaled else t["U.weight"]
    o = t["g"].sqrt() * head["Wout.weight"] / head["Wout.weight"].norm() if scaled else head["Wout.weight"]

    def seen(state):
        return nn.functional.avg_pool2d(state, 2).flatten(1) @ o.t()

    x = model[0](data.test_x[:4])
    z = layer.state(x)
    core = m * z + a * transposed(lambda y: circular(y, v), z, circular(z, v))
    core = core - circular(z, s) + transposed(lambda y: circular(y, s), z, z)
    right = z - psi * core + circular(nn.functional.pad(x, (1, 1, 1, 1)), u) + t["U.bias"].reshape(-1, 1, 1)
    if bounded:
        right = right - psi * transposed(seen, z, seen(z)) / (2.0 * gamma)
        wide = nn.functional.pad(x, (1, 1, 1, 1))
        back = transposed(lambda y: circular(y, u), wide, z / psi)
        right = right - circular(back, u) / (2.0 * gamma)
    inside = testing.zeros(1, 1, size, size)
    inside[..., 1:-1, 1:-1] = 1.0
    torch.testing.assert_close(z, inside * torch.relu(right), rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(model(data.test_x[:4]), seen(z) + head["Wout.bias"], rtol=1e-3, atol=1e-3)
    assert command(["certify", str(tmp_path / "run"), "--limit", "5", "--json"]) == 0
    if bounded:
        assert layer.lipschitz()[0] <= gamma * (1 + 1e-4)


def test_matrices_of_matlab(tmp_path, capsys):
    t = {name.removeprefix("mon.linear_module."): part for name, part in tensors_of("locuslab-mondeq", 64, 10).items()}
    names = {"A": "A.weight", "B": "B.weight", "U": "U.weight", "u": "U.bias", "C": "Wout.weight", "c": "Wout.bias"}
    arrays = {key: t[name].reshape(len(t[name]), -1).numpy() for key, name in names.items()}
    scipy.io.savemat(tmp_path / "a.mat", arrays)
    torch.save(t, tmp_path / "a.pt")
    found, expected = (
        read_dense(tmp_path / name, layout, m=20.0)
        for name, layout in (("a.mat", "semialgebraic"), ("a.pt", "locuslab-mondeq"))
    )
    for part in ("matrix", "weight", "bias", "output", "output_bias"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), rtol=1e-14, atol=1e-13)
    imported(tmp_path / "a.mat", "semialgebraic", tmp_path / "run", 20.0)
    scipy.io.savemat(tmp_path / "b.mat", {"A": "not a matrix"})
    (tmp_path / "c.mat").write_bytes(b"nothing")
    for name in ("b.mat", "c.mat"):
        assert command(["import", str(tmp_path / name), "--as", "semialgebraic", "--data", "digits"]) == 2
        assert ".mat" in capsys.readouterr().err


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_nothing_but_tensors_is_loaded(tmp_path, capsys):
    for content, name in ((Payload(), "evil.pt"), ({"A": Payload()}, "dict.pt"), ([testing.zeros(2)], "list.pt")):
        torch.save(content, tmp_path / name)
        assert command(["import", str(tmp_path / name), "--data", "digits", "--out", str(tmp_path / "run")]) == 2
        assert "plain dictionary of tensors" in capsys.readouterr().err
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Payload()))
    assert command(["import", str(tmp_path / "raw.pt"), "--data", "digits", "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


def test_errors_name_what_is_wrong(tmp_path, capsys):
    file = tmp_path / "a.pt"
    torch.save(tensors_of("locuslab-mondeq"), file)
    base = ["import", str(file), "--data", "digits", "--out", str(tmp_path / "run")]
    for extra, code, words in (
        ([], 2, "give the --data"), (["--as", "lben"], 2, "has no tensor"), (["--as", "nothing"], 2, "unknown layout"),
        (["--m", "-1"], 2, "m=-1"), (["--gamma", "0"], 2, "gamma=0"),
    ):  # fmt: skip
        assert command([*base, *extra]) == code
        assert words in capsys.readouterr().err
    torch.save(tensors_of("lben-gamma"), file)
    assert command([*base, "--as", "lben-gamma"]) == 2
    assert "--gamma" in capsys.readouterr().err
    broken = tensors_of("lben")
    broken["mon.linear_module.V"][0, 0] = torch.nan
    torch.save(broken, file)
    assert command([*base, "--as", "lben"]) == 2
    assert command(["import", str(tmp_path / "none.pt")]) == 2


def test_files_that_do_not_match_are_refused(tmp_path):
    t = tensors_of("lben", 64, 10)
    prefix = "mon.linear_module."
    variants = {
        "surplus": {**t, "extra": testing.zeros(2)},
        "twice": {**t, "V": t[f"{prefix}V"]},
        "broadcast S": {**t, f"{prefix}S": testing.zeros(H, 1)},
        "scalar S": {**t, f"{prefix}S": testing.zeros(())},
        "short psi": {**t, f"{prefix}psi": testing.zeros(1)},
        "complex": {**t, f"{prefix}V": t[f"{prefix}V"].to(torch.complex128)},
        "bias": {**t, "Wout.bias": testing.full((10,), torch.nan)},
        "shape": {**t, "Wout.bias": testing.zeros(3)},
    }
    for content in variants.values():
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError):
            read_dense(tmp_path / "a.pt", "lben", m=1.0)
    old = tensors_of("lben-lambda")
    old[f"{prefix}Lambda"][0] = -1.0
    torch.save(old, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="positive"):
        read_dense(tmp_path / "a.pt", "lben-lambda", m=1.0)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("fc_lip0.5_w80.params", 0.5), ("full_L50.pt", 50.0), ("lip2.pt", 2.0), ("a_L1e-3.pt", None), ("clip0.5.pt", None),
        ("L1_lip2.pt", None),
    ],
)  # fmt: skip
def test_bounds_in_file_names(name, bound, tmp_path):
    torch.save(tensors_of("lben-gamma"), tmp_path / name)
    if bound is None:
        with pytest.raises(wp.InputError, match="gamma"):
            read_dense(tmp_path / name, "lben-gamma", m=1.0)
    else:
        found = read_dense(tmp_path / name, "lben-gamma", m=1.0)
        expected = read_dense(tmp_path / name, "lben-gamma", m=1.0, gamma=bound)
        assert torch.equal(found.matrix, expected.matrix)


def test_broken_files_are_refused_whatever_is_wrong_with_them(tmp_path):
    t = {name.removeprefix("mon.linear_module."): part for name, part in tensors_of("locuslab-mondeq").items()}
    torch.save(t, tmp_path / "a.pt")
    scipy.io.savemat(tmp_path / "a.mat", {"A": t["A.weight"].numpy()}, do_compression=True)
    generator = testing.generator(0)
    for name, count in (("a.pt", 60), ("a.mat", 4)):
        whole = bytearray((tmp_path / name).read_bytes())
        for _ in range(count):
            broken = bytearray(whole)
            for place in testing.randint(0, len(whole), (3,), generator=generator).tolist():
                broken[place] ^= 0x5A
            path = tmp_path / f"broken-{name}"
            path.write_bytes(bytes(broken[: len(broken) - 7]))
            with pytest.raises(CheckpointError):
                read_dense(path, "semialgebraic", m=1.0)
