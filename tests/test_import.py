"""Published checkpoint layouts: the matrices satisfy the conditions of their parametrisations, and runs come out of them."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

import wellposed as wp
from wellposed.cli.main import run as command
from wellposed.constraints.lipschitz_bounded import lipschitz_matrix
from wellposed.interop import LAYOUTS, read_dense
from wellposed.training.run import load_image_run

H, D, K = 6, 9, 4


def tensors_of(layout, inputs=D, classes=K, dtype=torch.float64):
    torch.manual_seed(0)
    square = {name: torch.randn(H, H, dtype=dtype) / H**0.5 for name in ("A", "B", "V", "S", "W")}
    u, ub = torch.randn(H, inputs, dtype=dtype) / inputs**0.5, torch.randn(H, dtype=dtype)
    o, ob = torch.randn(classes, H, dtype=dtype) / H**0.5, torch.randn(classes, dtype=dtype)
    ends = {"U.weight": u, "U.bias": ub}
    head = {"Wout.weight": o, "Wout.bias": ob}
    bounded = {"B.weight": u, "B.bias": ub, "G.weight": o, "G.bias": ob, "V": square["V"], "S": square["S"]}
    positive = 0.5 + torch.rand(H, dtype=dtype)
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_matrices_satisfy_their_conditions(layout, tmp_path):
    """The least eigenvalues that the parametrisations promise: 2m for current ones, m for the old one with a bound."""
    path = tmp_path / "fc_lip0.7_w6.params"
    torch.save(tensors_of(layout), path)
    m = 1.5
    found = read_dense(path, layout, m=m)
    assert found.matrix.shape == (H, H) and found.weight.shape == (H, D) and found.output.shape == (K, H)
    eye = torch.eye(H, dtype=torch.float64)
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
    assert command(["verify", str(out / "certificate.json"), str(out / "weights.safetensors")]) == 0
    assert "the certificate holds" in capsys.readouterr().out
    assert command(["certify", str(out), "--limit", "5", "--method", "ladder", "--eps", "0.01", "--json"]) == 0


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_nothing_but_tensors_is_loaded(tmp_path, capsys):
    for content, name in ((Payload(), "evil.pt"), ({"A": Payload()}, "dict.pt"), ([torch.zeros(2)], "list.pt")):
        torch.save(content, tmp_path / name)
        assert command(["import", str(tmp_path / name), "--data", "digits", "--out", str(tmp_path / "run")]) == 1
        assert "plain dictionary of tensors" in capsys.readouterr().err
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Payload()))
    assert command(["import", str(tmp_path / "raw.pt"), "--data", "digits", "--out", str(tmp_path / "run")]) == 1
    assert not (tmp_path / "run").exists()


def test_errors_name_what_is_wrong(tmp_path, capsys):
    file = tmp_path / "a.pt"
    torch.save(tensors_of("locuslab-mondeq"), file)
    base = ["import", str(file), "--data", "digits", "--out", str(tmp_path / "run")]
    for extra, code, words in (
        ([], 2, "give the --data"), (["--as", "lben"], 1, "has no tensor"), (["--as", "nothing"], 2, "unknown layout"),
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
    assert command([*base, "--as", "lben"]) == 1
    assert command(["import", str(tmp_path / "none.pt")]) == 1
