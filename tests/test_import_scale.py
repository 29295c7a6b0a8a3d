"""Published layouts at the sizes and conditioning of trained files: a written run computes what the file's formulas say.

The formulas are written out here once more, in float64, and solved there: splitting in the file's own metric, then Newton steps
on the pattern of active units, whose residual is checked.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.data import load_images
from wellposed.experiments.imported import import_run
from wellposed.interop import read_dense
from wellposed.layers.frozen import frozen
from wellposed.training.checkpoint import load_weights
from wellposed.training.config import read_config
from wellposed.training.loaders import build_model

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]

F64 = torch.float64


def equilibrium(matrix, offset, metric):
    """The z of each row q of an offset with z = max(Wz + q, 0): float64, residual below 1e-10 of its size."""
    eye, root = testing.eye(len(matrix), dtype=F64), metric.sqrt()
    h = root[:, None] * (eye - matrix) / root
    least, size = float(torch.linalg.eigvalsh((h + h.t()) / 2)[0]), float(torch.linalg.matrix_norm(h, 2))
    assert least > 0.0
    step = (least * size) ** -0.5
    resolvent = torch.linalg.inv(eye + step * h)
    u = torch.zeros_like(offset)
    for _ in range(3000):
        u = 2.0 * (u.abs() + step * offset * root) @ resolvent.t() - u.abs()
    return newton(matrix, offset, torch.relu(u) / root)


def newton(matrix, offset, z):
    """The equilibria on the patterns of active units that a start near them has."""
    eye = testing.eye(len(matrix), dtype=F64)
    for _ in range(20):
        active = (z @ matrix.t() + offset > 0.0).double()
        z = torch.stack(
            [torch.linalg.solve(eye - d[:, None] * matrix, d * q) for d, q in zip(active, offset, strict=True)]
        )
        residual = (torch.relu(z @ matrix.t() + offset) - z).norm(dim=1) / z.norm(dim=1).clamp_min(1e-30)
        if float(residual.max()) <= 1e-10:
            return z
    raise AssertionError(f"the oracle itself did not converge: {float(residual.max()):.2g}")


def drawn(generator, *shape, scale=1.0):
    size = max(1, torch.Size(shape).numel() // shape[0])
    return (scale * testing.randn(*shape, generator=generator, dtype=F64) / size**0.5).float()


def dense_file(layout, width, gamma, seed, classes=10, inputs=64):
    """Tensors as such a program saves them, float32, and W, Λ, U, b, C, c by its formulas; scales of trained files."""
    generator = testing.generator(seed)

    def square(scale):
        return drawn(generator, width, width, scale=scale)

    m = 20.0 if layout == "locuslab-mondeq" else 1.0
    u, ub = drawn(generator, width, inputs, scale=8.0), drawn(generator, width)
    o, ob = drawn(generator, classes, width, scale=min(gamma or 1.0, 1.0)), drawn(generator, classes)
    psi = 0.35 * testing.randn(width, generator=generator)  # metrics within 0.36 … 1.4 or so
    prefix, eye = "mon.linear_module.", testing.eye(width, dtype=F64)
    uu, oo, scale = u.double(), o.double(), psi.double().exp()
    ends = {"U.weight": u, "U.bias": ub}
    head = {"Wout.weight": o, "Wout.bias": ob}
    if layout in ("locuslab-mondeq", "lben-mondeq"):
        a, b = square(2.0), square(2.0)
        inner = {**ends, "A.weight": a, "B.weight": b}
        a, b = a.double(), b.double()
        matrix, metric = eye - m * eye - a.t() @ a + b - b.t(), testing.ones(width, dtype=F64)
    elif layout == "lben-unconstrained":
        w = square(0.6)
        inner, matrix, metric = {**ends, "Wp": w}, w.double(), testing.ones(width, dtype=F64)
    else:
        v, s = square(1.0), square(2.0)
        named = {"psi": psi} if layout in ("lben", "lben-gamma") else {"Lambda": psi.exp()}
        inner = {"V.weight": v, "S.weight": s, **named}
        v, s = v.double(), s.double()
        core = v.t() @ v + eye
        if layout in ("lben", "lben-lambda"):  # Lambda is Ψ here
            inner |= ends
            matrix, metric = eye - torch.diag(scale) @ (core + s.t() - s), 1.0 / scale
        else:
            inner |= {"B.weight": u, "B.bias": ub, "G.weight": o, "G.bias": ob}
            head = {}
            metric = 1.0 / scale if layout == "lben-gamma" else scale  # Lambda is Λ here
            lam = torch.diag(metric)
            term = oo.t() @ oo / gamma + lam @ uu @ uu.t() @ lam / gamma
            if layout == "lben-gamma":
                matrix = eye - torch.diag(scale) @ (term / 2.0 + core + s.t() - s)
            else:
                matrix = 0.5 * torch.linalg.inv(lam) @ (2.0 * lam - term - core + s.t() - s)
    file = {prefix + name: part for name, part in inner.items()} | head
    return file, m, (matrix, metric, uu, ub.double(), oo, ob.double())


def written(tmp_path, name, layout, file, **options):
    """The model of the run that an import writes, built as every command builds it, and the images."""
    torch.save(file, tmp_path / name)
    settings = {"data": "digits", "data_root": None, "m": 1.0, "gamma": None, **options}
    run, error = import_run(tmp_path / name, layout, tmp_path / "run", **settings)
    config, images = read_config(run.config), load_images("digits")
    model = build_model(config, images).eval()
    load_weights(model, config, run.weights)
    return model, images, error


@pytest.mark.parametrize(
    ("name", "layout", "width", "gamma"),
    [
        ("mon_h40_m20.0.pt", "locuslab-mondeq", 40, None), ("mon_w80.params", "lben-mondeq", 80, None),
        ("ode_w10.params", "lben", 10, None), ("ode_w80.params", "lben-lambda", 80, None),
        ("uncon_w80.params", "lben-unconstrained", 80, None),
        *((f"fc_lip{gamma}_w80.params", "lben-gamma", 80, gamma) for gamma in (0.1, 0.5, 5.0)),
        ("fc_lip1.0_w250.params", "lben-gamma", 250, 1.0), ("fc_lip0.5_w20.params", "lben-gamma", 20, 0.5),
        *((f"mon_lip{gamma}_w80.params", "lben-gamma-lambda", 80, gamma) for gamma in (0.1, 1.0)),
        ("fc_lip50_w80.params", "lben-gamma-lambda", 80, 50.0),
    ],
)  # fmt: skip
def test_dense_files_are_the_networks_that_they_describe(name, layout, width, gamma, tmp_path):
    file, m, (w, metric, u, b, o, c) = dense_file(layout, width, gamma, seed=width)
    with warnings.catch_warnings():
        warnings.simplefilter("error", wp.NotConvergedWarning)
        model, images, error = written(tmp_path, name, layout, file, m=m)
        x = images.test_x[:25]
        logits = model(x).detach()
    found = read_dense(tmp_path / name, layout, m=m)
    for part, expected in zip(
        (found.matrix, found.weight, found.bias, found.output, found.output_bias), (w, u, b, o, c), strict=True
    ):
        torch.testing.assert_close(part, expected, rtol=1e-6, atol=1e-6)
    flat = ((x.double() - images.mean[0]) / images.std[0]).flatten(1)
    z = equilibrium(w, flat @ u.t() + b, metric)
    right = z @ o.t() + c
    assert float(((logits.double() - right).norm(dim=1) / right.norm(dim=1)).max()) < 2e-3
    with torch.no_grad():
        misses = (model(images.test_x).argmax(1) != images.test_y).double().mean()
    assert error == pytest.approx(float(misses), abs=1e-9)
    layer = next(part for part in model.modules() if isinstance(part, wp.Equilibrium))
    operator, guarantee = layer.materialise()
    off = (operator.dense().detach().double() - w).norm() / w.norm()
    assert float(off) < 1e-6
    if layout == "lben-unconstrained":
        assert guarantee is None
        return
    # Guaranteed in the file's own metric, for the numbers that are stored; so are the copies that certificates solve.
    exact = frozen(layer)
    if operator.metric is not None:
        torch.testing.assert_close(operator.metric, metric, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(exact.operator().metric, operator.metric)
    root = metric.sqrt()
    h = root[:, None] * (testing.eye(width, dtype=F64) - operator.dense().double()) / root
    assert 0.0 < guarantee.m <= float(torch.linalg.eigvalsh((h + h.t()) / 2)[0]) * (1.0 + 1e-6)
    assert guarantee.m >= 0.3 * m * float((1.0 / metric).min() if "lben" in layout and "mondeq" not in layout else 1.0)
    solution = exact.solve(flat[:5])
    assert bool(solution.converged.all())
    torch.testing.assert_close(solution.value, z[:5], rtol=1e-3, atol=1e-4)
    if gamma is not None:
        bound, _ = layer.lipschitz()
        assert bound <= gamma * (1.0 + 1e-4)


def test_a_badly_conditioned_file_is_solved(tmp_path):
    name, layout = "fc_lip0.1_w250.params", "lben-gamma"
    file, _, (w, metric, *_) = dense_file(layout, 250, 0.1, seed=250)
    root = metric.sqrt()
    h = root[:, None] * (testing.eye(250, dtype=F64) - w) / root
    kappa = torch.linalg.matrix_norm(h, 2) / torch.linalg.eigvalsh((h + h.t()) / 2)[0]
    assert float(kappa) > 4000.0
    model, images, _ = written(tmp_path, name, layout, file, limit=20)
    weights = read_dense(tmp_path / name, layout, m=1.0)
    x = images.test_x[:10]
    flat = ((x.double() - images.mean[0]) / images.std[0]).flatten(1)
    right = equilibrium(weights.matrix, flat @ weights.weight.t() + weights.bias, weights.metric) @ weights.output.t()
    right = right + weights.output_bias
    logits = model(x).detach().double()
    assert float(((logits - right).norm(dim=1) / right.norm(dim=1)).max()) < 2e-3
    # Newton's method takes over where the iteration would need thousands of steps.
    assert read_config(tmp_path / "run" / "config.toml").family.max_steps == 1000


def test_what_cannot_be_solved_is_an_error_and_no_run(tmp_path, capsys):
    generator = testing.generator(3)
    file, _, _ = dense_file("lben-unconstrained", 30, None, seed=3)
    file["mon.linear_module.Wp"] = drawn(generator, 30, 30, scale=40.0)
    torch.save(file, tmp_path / "uncon_w30.params")
    out = tmp_path / "run"
    base = [
        "import",
        str(tmp_path / "uncon_w30.params"),
        "--as",
        "lben-unconstrained",
        "--data",
        "digits",
        "--out",
        str(out),
    ]
    assert command(base) == 2
    message = capsys.readouterr().err
    assert "could not be solved" in message and "not converged" in message
    assert not out.exists()


def circular(image, kernel):
    side = kernel.shape[2] // 2
    return nn.functional.conv2d(nn.functional.pad(image, (side,) * 4, mode="circular"), kernel)


def as_matrix(function, shape):
    """The matrix of a linear map of images of that shape."""
    basis = testing.eye(shape.numel(), dtype=F64).reshape(-1, *shape)
    return function(basis).flatten(1).t()


@pytest.mark.parametrize(
    ("layout", "metric", "trained", "taps", "input_taps", "stride"),
    [
        ("lben-conv-gamma-raw", "full", False, 3, 3, None), ("lben-conv-gamma-raw", None, False, 3, 3, None),
        ("lben-conv-gamma-raw", "full", True, 3, 3, None), ("lben-conv-gamma", "full", True, 3, 5, None),
        ("lben-conv-gamma", "channels", True, 5, 3, 2), ("lben-conv", "full", True, 5, 1, None),
        ("locuslab-mondeq-conv", None, True, 5, 3, 2), ("locuslab-mondeq-conv", None, True, 3, 1, None),
    ],
)  # fmt: skip
def test_convolutions_are_the_networks_that_they_describe(layout, metric, trained, taps, input_taps, stride, tmp_path):
    """Kernels as the files use them, of any size; what a file holds only decides that untrained scales were never used."""
    generator = testing.generator(taps)
    channels, gamma, m, step = 4, 0.5, 0.1, stride or 1
    side = 8 // step + 2
    shape = torch.Size((channels, side, side))
    a, b = (drawn(generator, channels, channels, taps, taps, scale=2.0) for _ in "ab")
    u, ub = drawn(generator, channels, 1, input_taps, input_taps, scale=3.0), drawn(generator, channels)
    pool = {10: 2, 6: 2}[side] if layout != "locuslab-mondeq-conv" else {10: 4, 6: 3}[side]
    o, ob = drawn(generator, 10, channels * (side // pool) ** 2), drawn(generator, 10)
    g, h = (testing.tensor(3.04), testing.tensor(4.05)) if trained else (testing.tensor(1.0), testing.tensor(1.0))
    t = {"A.weight": a, "B.weight": b, "U.weight": u, "U.bias": ub}
    t |= (
        {"a": g, "b": h, "u": testing.tensor(2.0), "g": testing.tensor(3.0)}
        if layout == "lben-conv-gamma"
        else {"g": g, "h": h}
    )
    psi = testing.zeros(1, 1, 1, dtype=F64)
    if metric is not None:
        size = (1, *shape) if metric == "full" else (1, channels, 1, 1)
        t["psi"] = 0.3 * testing.randn(size, generator=generator)
        psi = t["psi"][0].double()
    head = {"Wout.weight": o, "Wout.bias": ob}
    inner = {**t, **head} if "gamma" in layout else t
    file = {f"mon.linear_module.{name}": part for name, part in inner.items()} | ({} if "gamma" in layout else head)
    model, images, _ = written(tmp_path, "lben_conv_w4_L0.5.params", layout, file, m=m, stride=stride, limit=50)
    a, b, u, o, g, h = (part.double() for part in (a, b, u, o, g, h))
    if trained:
        a, b = a / a.norm() * g.sqrt(), h * b / b.norm()
    if layout == "lben-conv-gamma":
        u, o = u / u.norm() * 2.0**0.5, o / o.norm() * 3.0**0.5

    va, vb = (as_matrix(lambda z, k=kernel: circular(z, k), shape) for kernel in (a, b))
    eye, scale = testing.eye(shape.numel(), dtype=F64), psi.exp().expand(shape).reshape(-1)
    core = m * eye + va.t() @ va - vb + vb.t()
    pooled = o @ as_matrix(lambda z: nn.functional.avg_pool2d(z, pool), shape)
    canvas = torch.Size((1, step * side, step * side))
    inside = testing.zeros(side, side, dtype=F64)
    inside[1:-1, 1:-1] = 1.0
    wide = as_matrix(lambda x: circular(x, u)[:, :, ::step, ::step], canvas) if "lben" in layout else None
    if "gamma" in layout:
        core = core + (pooled.t() @ pooled + wide @ wide.t() / scale[:, None] / scale) / (2.0 * gamma)
    w = eye - scale[:, None] * core
    x = images.test_x[:6]
    image = (x.double() - images.mean[0]) / images.std[0]
    if wide is None:
        small = nn.functional.conv2d(image, u, stride=step, padding=input_taps // 2)
        driven = nn.functional.pad(small, (1, 1, 1, 1))
    else:
        driven = (nn.functional.pad(image, (step, step, step, step)).flatten(1) @ wide.t()).reshape(-1, *shape)
    q = (driven + ub.double()[:, None, None]).flatten(1)
    keep = (inside.expand(shape).reshape(-1) > 0.0).nonzero()[:, 0]
    z = testing.zeros(len(x), shape.numel(), dtype=F64)
    z[:, keep] = equilibrium(w[keep][:, keep], q[:, keep], 1.0 / scale[keep])
    right = z @ pooled.t() + ob.double()
    logits = model(x).detach().double()
    assert float(((logits - right).norm(dim=1) / right.norm(dim=1)).max()) < 2e-3
    if stride is None:
        return
    run = tmp_path / "run"  # and the independent checker knows of such kernels
    assert command(["certify", str(run), "--limit", "2", "--json"]) == 0
    assert command(["verify", str(run / "certificate.json"), str(run / "model.onnx")]) == 0


@pytest.mark.parametrize("layout", ["nemon", "nemon-robust"])
def test_non_euclidean_files_are_the_networks_that_they_describe(layout, tmp_path):
    generator = testing.generator(7)
    width, m = 100, 0.95
    free, d = drawn(generator, width, width, scale=4.0), 0.5 * testing.randn(width, generator=generator)
    a = testing.randn(width, generator=generator) * (layout == "nemon-robust")
    u, ub = drawn(generator, width, 64, scale=3.0), drawn(generator, width)
    o, ob = drawn(generator, 10, width, scale=3.0), drawn(generator, 10)
    names = {"nemon": ("A.weight", "d", "U", "mon"), "nemon-robust": ("M.weight", "eta", "U.M", "nemon")}[layout]
    inner = {names[0]: free, names[1]: d, f"{names[2]}.weight": u, f"{names[2]}.bias": ub}
    inner |= {"a": a} if layout == "nemon-robust" else {}
    file = {f"{names[3]}.linear_module.{name}": part for name, part in inner.items()}
    file |= {"Wout.weight": o, "Wout.bias": ob}
    model, images, _ = written(tmp_path, "nemon_w100.pt", layout, file, m=m)
    eta = torch.diag(d.double().exp())
    w = torch.linalg.inv(eta) @ free.double() @ eta
    w = w - torch.diag(free.double().abs().sum(1)) + m * testing.eye(width, dtype=F64) - torch.diag(a.double() ** 2)
    x = images.test_x[:20]
    q = ((x.double() - images.mean[0]) / images.std[0]).flatten(1) @ u.double().t() + ub.double()
    z = torch.zeros_like(q)
    for _ in range(2000):
        z = z + (torch.relu(z @ w.t() + q) - z) / (1.0 - w.diagonal().min())
    right = newton(w, q, z) @ o.double().t() + ob.double()
    logits = model(x).detach().double()
    assert float(((logits - right).norm(dim=1) / right.norm(dim=1)).max()) < 2e-3


@pytest.mark.parametrize("convolutional", [False, True])
def test_positive_concave_files_are_the_networks_that_they_describe(convolutional, tmp_path):
    """Rows of W far longer than one, as training makes them; an input kernel and a stride that are not the published ones."""
    generator = testing.generator(8)
    width = 6 if convolutional else 80
    name, shape = ("conv1", (width, 1, 5, 5)) if convolutional else ("linear1", (width, 64))
    inner = (width, width, 3, 3) if convolutional else (width, width)
    ones = (1,) * (len(inner) - 1)
    v, g = testing.rand(inner, generator=generator), testing.rand(width, *ones, generator=generator)
    g = g if convolutional else 3.0 * g
    u, ub = drawn(generator, *shape, scale=3.0), drawn(generator, width)
    outputs = width * 2 * 2 if convolutional else width
    o, ob = drawn(generator, 10, outputs, scale=5.0), drawn(generator, 10)
    t = {f"{name}.weight": u, f"{name}.bias": ub, "block.deq.f.W.weight_v": v, "block.deq.f.W.weight_g": g}
    t |= {"classifier.weight": o, "classifier.bias": ob}
    stats = {"weight": 1.0, "bias": 0.3, "running_mean": 0.2, "running_var": 0.5}
    for norm in ("bn1", "bn2"):
        t |= {f"{norm}.{key}": testing.full((width,), value) for key, value in stats.items()}
        t[f"{norm}.num_batches_tracked"] = testing.tensor(9)
    layout, stride = ("pcdeq1-tanh-conv", 2) if convolutional else ("pcdeq1-tanh", None)
    model, images, _ = written(tmp_path, "MNIST_tanh.pth", layout, t, stride=stride)

    def normalised(value):
        return (value - 0.2) / (0.5 + 1e-5) ** 0.5 + 0.3

    x, u, v, g = images.test_x[:20].double(), u.double(), v.double(), g.double()
    w = g * v / v.flatten(1).norm(dim=1).reshape(-1, *ones)
    bias = ub.double().reshape(-1, *ones[1:])
    driven = nn.functional.conv2d(x, u, stride=2, padding=2) if convolutional else x.flatten(1) @ u.t()
    offset = nn.functional.softplus(normalised(driven + bias), beta=5)
    z = torch.zeros_like(offset)
    for _ in range(500):
        z = torch.tanh((nn.functional.conv2d(z, w, padding=1) if convolutional else z @ w.t()) + offset)
    if convolutional:
        z = nn.functional.avg_pool2d(normalised(nn.functional.max_pool2d(z, 3, 1, 1)), 2).flatten(1)
    else:
        z = normalised(z)
    right = z @ o.double().t() + ob.double()
    logits = model(images.test_x[:20]).detach().double()
    assert float(((logits - right).norm(dim=1) / right.norm(dim=1)).max()) < 2e-3
