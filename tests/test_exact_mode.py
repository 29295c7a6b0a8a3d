"""Exact mode: it says what the floating-point proofs say, in rational numbers, and refuses what is false by a little."""

from __future__ import annotations

import operator
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.deployed_files import accepted, claim_of, forge, written
from test_checker import CASES, MODELS
from test_checker_cells import MODELS as CELLS
from wellposed.checker import Refuted, check, exact, main, proofs, rationals
from wellposed.checker.rationals import Rationals
from wellposed.cli.main import run

flint = pytest.importorskip("flint", reason="python-flint is not installed: pip install 'wellposed[exact]'")
pytestmark = pytest.mark.float32

IMAGES = {
    "circular": (lambda: nn.Sequential(wp.ConvMonDEQ(1, 2, (5, 4)), nn.Flatten(), nn.Linear(40, 3)), (1, 5, 4)),
    "channelwise": (lambda: nn.Sequential(wp.ConvNEMON(2, 3, (5, 4)), nn.Flatten(), nn.Linear(60, 3)), (2, 5, 4)),
    "pooled": (
        lambda: nn.Sequential(
            wp.ConvMonDEQ(2, 3, (4, 5), activation="tanh"), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
        ),
        (2, 4, 5),
    ),
    "bordered": (
        lambda: nn.Sequential(wp.ConvMonDEQ(1, 2, (4, 3), border=1), nn.Flatten(), nn.Linear(60, 3)),
        (1, 4, 3),
    ),
    "scaled": (
        lambda: nn.Sequential(wp.ConvLBEN(1, 2, (6, 6), stride=3, input_taps=5), nn.Flatten(), nn.Linear(8, 3)),
        (1, 6, 6),
    ),
    "prescribed": (
        lambda: nn.Sequential(wp.ConvLBEN(2, 3, (4, 4), gamma=3.0, out_features=2, activation="tanh")),
        (2, 4, 4),
    ),
    "positive": (lambda: nn.Sequential(wp.ConvPcDEQ(1, 2, (5, 4)), nn.Flatten(), nn.Linear(40, 3)), (1, 5, 4)),
}
ALL = {**MODELS, **CELLS, **IMAGES}
FOLLOWED = ("mondeq", "alone", "pcdeq", "sigmoid", "deep", "branches")  # with lower bounds


def exactly(folder):
    """What exact mode says of the files of a folder, which it accepts."""
    return check(folder / "c.json", folder / "m.onnx", exact=True)


def refused(folder, words=""):
    with pytest.raises(Refuted) as caught:
        exactly(folder)
    assert words in str(caught.value) and "Error" not in str(caught.value), str(caught.value)


def of_model(name, folder, norm="2", **options):
    torch.manual_seed(0)
    model, shape = ALL[name]
    return written(model(), folder, shape, norm=norm, **options)


class TestCertificates:
    @pytest.mark.parametrize(("name", "norm"), [*CASES, *[(name, "2") for name in (*CELLS, *IMAGES)]])
    def test_both_modes_say_the_same(self, name, norm, tmp_path):
        of_model(name, tmp_path, norm)
        told = "every inequality is proved in rational arithmetic"
        assert sorted(exactly(tmp_path)) == sorted([*accepted(tmp_path), told])
        forge(tmp_path, lambda claim: claim.update(lipschitz=claim["lipschitz"] * (1.0 - 1e-3)))
        refused(tmp_path, "is claimed")

    @pytest.mark.parametrize("name", FOLLOWED)
    def test_lower_bounds_too(self, name, tmp_path):
        of_model(name, tmp_path, inputs=torch.randn(6, *ALL[name][1]))
        assert any("two inputs prove" in line for line in exactly(tmp_path))
        forge(tmp_path, lambda claim: claim.update(lower_bound=claim["lower_bound"] * (1.0 + 1e-3)))
        refused(tmp_path, "lower bound")

    def test_smaller_constants_of_margins_and_sensitivities_are_refused(self, tmp_path):
        of_model("mondeq", tmp_path)
        forge(tmp_path, lambda claim: claim["pairs"][0].__setitem__(1, claim["pairs"][0][1] * (1.0 - 1e-3)))
        refused(tmp_path, "pairs")
        of_model("mondeq", tmp_path)
        forge(tmp_path, evidence=lambda tensors: tensors["5/values"].__imul__(1.0 - 1e-3))
        refused(tmp_path, "metric")
        of_model("pcdeq", tmp_path)
        forge(tmp_path, evidence=lambda tensors: [tensors[key].__imul__(0.9) for key in tensors if "reach" in key])
        refused(tmp_path, "sensitivity")


class TestTight:
    def test_the_norm_of_a_matrix(self, tmp_path):
        layer = nn.Linear(2, 2)
        layer.weight.data = torch.tensor([[3.0, 4.0], [-4.0, 3.0]])  # norm 5
        written(nn.Sequential(layer), tmp_path, (2,))
        exactly(tmp_path)
        assert 5.0 < claim_of(tmp_path)["lipschitz"] < 5.0 * (1.0 + 1e-6)
        for missing in (0.0, 1e-15, 1e-12):
            forge(tmp_path, lambda claim, m=missing: claim.update(lipschitz=5.0 * (1.0 - m)))
            refused(tmp_path, "is claimed")

    def test_an_equilibrium_of_one_state(self, tmp_path):
        torch.manual_seed(0)
        written(nn.Sequential(wp.MonDEQ(1, 1, m=0.5), nn.Linear(1, 1)), tmp_path, (1,))
        exactly(tmp_path)
        tensors = {
            part.name: onnx.numpy_helper.to_array(part) for part in onnx.load(tmp_path / "m.onnx").graph.initializer
        }
        (w,), (u, c) = (
            [Fraction(float(part.item())) for name, part in tensors.items() if name.endswith(role)]
            for role in (".W", "weight")
        )
        truth = abs(u * c) / (1 - w)
        claimed = claim_of(tmp_path)["lipschitz"]
        assert truth <= Fraction(claimed) <= truth * (1 + Fraction(1, 10**4))
        below = float(truth * (1 - Fraction(1, 10**12)))

        def lower(tensors):
            for name in tensors:
                if name.endswith("/values"):
                    tensors[name][:] = np.minimum(tensors[name], below)

        forge(tmp_path, lambda claim: claim.update(lipschitz=below), lower)
        refused(tmp_path)


class TestSemidefinite:
    @pytest.mark.parametrize("size", [2, 5, 20])
    def test_a_singular_matrix_is_proved_with_a_little_more_and_never_with_less(self, size):
        half = np.random.default_rng(size).integers(-5, 6, (size, size - 1)).astype(float)
        matrix = Rationals.of(half @ half.T)
        assert proofs.semidefinite(matrix + 1e-9 * np.eye(size), 0.0)
        for less in (2.0**-40, 2.0**-300):
            assert not proofs.semidefinite(matrix - less * np.eye(size), 0.0)
            assert not proofs.semidefinite(matrix, less)
        assert not proofs.semidefinite(matrix + 1e-9 * np.eye(size), 1.1e-9)

    def test_what_float64_cannot_tell_apart_is_told_apart(self):
        apart = Rationals.of(2.0**-70)
        good = Rationals.of(np.ones((2, 2))) + apart * np.eye(2)
        rows, more = np.array([[2.0, 1.0], [1.0, 0.5]]), 1e-14 * np.eye(2)
        assert (np.asarray(good, float) == 1.0).all()
        assert not proofs.semidefinite(good - 2.0 * apart * np.eye(2), 0.0)
        assert proofs.semidefinite(Rationals.of(rows) + more, 0.0) and not proofs.semidefinite(
            Rationals.of(rows), apart
        )


class TestRationals:
    def test_sums_products_and_comparisons_are_exact(self):
        generator = np.random.default_rng(0)
        left, right = generator.standard_normal((3, 4)), generator.standard_normal((4, 3)) * 1e-9
        first, second = ([[Fraction(float(value)) for value in row] for row in part] for part in (left, right))
        product = [[sum(map(operator.mul, row, column)) for column in zip(*second, strict=True)] for row in first]
        found = Rationals.of(left) @ right
        assert all(
            Fraction(int(found[i, j].item().p), int(found[i, j].item().q)) == product[i][j]
            for i in range(3)
            for j in range(3)
        )
        assert (found + 2.0**-400 > found).all() and (found + 2.0**-400 - 2.0**-400 == found).all()
        assert (np.ldexp(np.ldexp(found, -3000), 3000) == found).all()

    @pytest.mark.parametrize(
        "function",
        [np.tanh, np.exp, np.expm1, np.arctan, np.arcsinh, np.cosh, np.sign, np.abs, lambda v: np.sqrt(np.abs(v)),
         lambda v: np.log1p(np.abs(v)), lambda v: np.logaddexp(v, 0.5), lambda v: v / 3.0, lambda v: np.abs(v) ** -1.5,
         lambda v: (1.0 + v) ** -2.0, lambda v: v.reshape(2, 3, 2) @ np.ones((2, 2)), lambda v: v.max(1, initial=0.0),
         lambda v: np.where(v > 0.0, v, 0.25), lambda v: np.broadcast_to(v[0], (2, 4)), lambda v: np.block([[v, np.eye(3)]])],
    )  # fmt: skip
    def test_functions_are_those_of_numpy(self, function):
        values = np.random.default_rng(0).standard_normal((3, 4))
        found = function(Rationals.of(values))
        assert isinstance(found, Rationals)
        assert np.asarray(found, float) == pytest.approx(function(values), rel=1e-14, abs=1e-300)

    def test_what_is_not_exact_is_an_error(self):
        values = Rationals.of(np.ones((2, 2)))
        for function in (np.sin, np.linalg.inv, np.linalg.cholesky, np.fft.fft, float):
            with pytest.raises(TypeError):
                function(values)
        with pytest.raises((TypeError, ValueError, RecursionError)):
            np.add(values, values, out=np.zeros((2, 2)))

    def test_numbers_below_are_short_and_near(self):
        values = Rationals.of(np.array([1.0, -2.0, 5e-300])) / 3.0
        below = (values * values * values).below()
        assert (below <= values**3).all() and (below >= values**3 - np.abs(values**3) * 2.0**-290).all()


class Strict:
    """A rational number that cannot become a float, so that no proof can lose exactness unseen."""

    def __init__(self, above, below=1):
        self.value = flint.fmpq(above, below)
        self.p, self.q = self.value.p, self.value.q

    def __abs__(self):
        return self.of(abs(self.value))

    def __neg__(self):
        return self.of(-self.value)

    def __bool__(self):
        return self.value != 0

    @classmethod
    def of(cls, value):
        return cls(value.p, value.q)


def _operated(function, *, swapped=False, compares=False):
    def applied(self, other):
        value = other.value if isinstance(other, Strict) else other
        found = function(value, self.value) if swapped else function(self.value, value)
        return found if compares else Strict.of(found)

    return applied


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Strict, f"__{_name}__", _operated(getattr(operator, _name)))
    setattr(Strict, f"__r{_name}__", _operated(getattr(operator, _name), swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Strict, f"__{_name}__", _operated(getattr(operator, _name), compares=True))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("mondeq", "2"),
        ("branches", "2"),
        ("feedthrough", "2"),
        ("image", "2"),
        ("mondeq", "inf"),
        ("lben", "1"),
        ("image", "1"),
        ("image convex", "2"),
        ("convolutions", "2"),
        ("circular", "2"),
        ("scaled", "2"),
        ("prescribed", "2"),
        ("channelwise", "2"),
    ],
)
def test_no_number_becomes_a_float_on_the_way(name, norm, tmp_path, monkeypatch):
    options = {"inputs": torch.randn(6, *ALL[name][1])} if name == "mondeq" and norm == "2" else {}
    of_model(name, tmp_path, norm, **options)
    near = np.frompyfunc(lambda entry: float(getattr(entry, "value", entry)), 1, 1)
    monkeypatch.setattr(Rationals, "nearest", lambda array: np.asarray(near(np.asarray(array)), float))
    monkeypatch.setattr(rationals, "fmpq", Strict)
    monkeypatch.setattr(rationals, "_product", np.matmul)
    exactly(tmp_path)


class TestCommand:
    def test_both_commands_take_the_option(self, tmp_path, capsys):
        of_model("alone", tmp_path)
        files = [str(tmp_path / "c.json"), str(tmp_path / "m.onnx")]
        for command in (main, lambda arguments: run(["verify", *arguments])):
            assert command(["--exact", *files]) == 0 and "rational" in capsys.readouterr().out
            assert command(files) == 0 and "rational" not in capsys.readouterr().out
        for arguments in (["--exact"], ["--exact", files[0]], [*files, files[0]], ["--exact", "--exact", files[0]]):
            assert main(arguments) == 2 and "--exact" in capsys.readouterr().err

    def test_what_is_not_proved_exactly_is_named(self, tmp_path, monkeypatch, capsys):
        of_model("mondeq", tmp_path)
        monkeypatch.setattr(exact, "_PROVED", exact._PROVED - {"ReflectedEquilibrium"})
        assert main(["--exact", str(tmp_path / "c.json"), str(tmp_path / "m.onnx")]) == 1
        assert "not proved exactly" in (out := capsys.readouterr().out) and "ReflectedEquilibrium_relu" in out

    def test_the_missing_extra_is_named(self, tmp_path, monkeypatch, capsys):
        of_model("alone", tmp_path)
        monkeypatch.setattr(exact, "flint", None)
        assert main(["--exact", str(tmp_path / "c.json"), str(tmp_path / "m.onnx")]) == 1
        assert "wellposed[exact]" in capsys.readouterr().out
