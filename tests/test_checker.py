"""The independent checker: accepts what was proved, refuses every changed bit, and every false claim even when sealed anew."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import wellposed as wp
from harness.certificate_file import forge, loaded_lines, refused, run_alone, scaled, seal_weights, written
from wellposed import checker, testing
from wellposed.checker import Checker, Refuted
from wellposed.checker.proofs import norm_at_most


def chain(layer, *after):
    return nn.Sequential(wp.Normalize((0.1,), (0.3,)), nn.Flatten(), layer, *after)


MODELS = {
    "mondeq": lambda: chain(wp.MonDEQ(16, 12, m=0.5), nn.Linear(12, 4)),
    "mondeq-tanh": lambda: chain(wp.MonDEQ(16, 12, activation="tanh"), nn.Linear(12, 4)),
    "lben": lambda: chain(wp.LBEN(16, 12), nn.Linear(12, 4)),
    "lben-bounded": lambda: chain(wp.LBEN(16, 12, gamma=1.5, out_features=4)),
    "nemon": lambda: chain(wp.NEMON(16, 12), nn.Linear(12, 4)),
    "deq": lambda: chain(wp.DEQ(16, 12, activation="relu"), nn.Linear(12, 4)),
    "two": lambda: chain(wp.MonDEQ(16, 12), nn.Tanh(), wp.LBEN(12, 6), nn.Linear(6, 3)),
    "float64": lambda: chain(wp.MonDEQ(16, 12, dtype=torch.float64), nn.Linear(12, 4)).double(),
}


def model_of(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    for module in model.modules():
        if isinstance(module, wp.DEQ):
            module.constraint.W.data.mul_(0.5)
    return model


def resealed(folder, change=None, evidence=None):
    forge(folder / "c.json", change, evidence)


@pytest.mark.parametrize("method", [None, "product"])
@pytest.mark.parametrize("name", MODELS)
def test_what_was_proved_is_accepted(name, method, tmp_path):
    if name == "lben-bounded" and method == "product":
        method = "metric"
    model = model_of(name)
    certificate = written(model, tmp_path, method=method)
    lines = Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    assert any(line.startswith("conclusion") and f"{certificate.lipschitz:.9g}" in line for line in lines)
    loaded = wp.Certificate.load(tmp_path / "c.json", model)
    assert loaded.check() and 0.0 <= loaded.lipschitz / certificate.lipschitz - 1.0 < 1e-11
    if method is None and name != "two":
        assert any(line.startswith("witness") for line in lines)


def test_a_lone_layer(tmp_path):
    torch.manual_seed(0)
    model = wp.MonDEQ(5, 4)
    wp.certify(model, inputs=testing.randn(3, 5)).save(tmp_path / "c.json")
    safetensors.torch.save_file(dict(model.state_dict()), tmp_path / "w.safetensors")
    assert len(Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()) >= 4


@pytest.mark.parametrize("file", ["c.json", "c.safetensors", "w.safetensors"])
def test_every_changed_bit_is_noticed(file, tmp_path):
    written(model_of("mondeq"), tmp_path)
    whole = (tmp_path / file).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(150):
        place, bit = int(generator.integers(len(whole))), int(generator.integers(8))
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        (tmp_path / file).write_bytes(changed)
        with pytest.raises(Refuted):
            Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    (tmp_path / file).write_bytes(whole)
    Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scaled("lipschitz"), "lipschitz"),
        (scaled("joint", "value"), "joint"),
        (scaled("joint", "pairs"), "joint"),
        (scaled("pairs"), "pairs"),
        (scaled("blocks", 0, "value"), "block"),
        (scaled("blocks", 3, "value"), "block"),
        (scaled("blocks", 1, "value"), "block"),
        (scaled("lower_bound", factor=1.01), "witness"),
        (lambda c: c.update(weights_sha256="0" * 64), "weights digest"),
        (lambda c: c.update(format="wellposed-certificate/2"), "format"),
        (lambda c: c["blocks"][2].update(kind="nonexpansive"), "accounting"),
        (lambda c: c["blocks"][3].update(kind="nonexpansive", **{"class": "Identity", "value": 1.0}), "accounting"),
        (lambda c: c["blocks"][3].update({"class": "Identity", "value": 1e-3}), "accounting"),
        (lambda c: c["joint"].update(place=-2), "multipliers"),
        (lambda c: c["joint"].update(place=True), "multipliers"),
        (lambda c: c["joint"].update(pairs=[[0.0]]), "pairs of shape"),
        (lambda c: c.update(pairs=[[0.0]]), "pairs"),
        (lambda c: c.update(pairs=[[0.0, -1.0], [-1.0, 0.0]]), "pairs"),
        (lambda c: c["blocks"][2].update(activation="gelu"), "activation"),
        (lambda c: c["blocks"][2].update(state="given"), "accounting"),
        (lambda c: c["blocks"].pop(3), "accounting"),
        (lambda c: c["blocks"].pop(0), "accounting"),
        (lambda c: c["joint"].update(place=3), "multipliers"),
        (lambda c: c.update(lipschitz=float("nan")), "number"),
        (lambda c: c.update(lipschitz=float("inf")), "number"),
        (lambda c: c["joint"].update(value=float("nan")), "number"),
        (lambda c: c.update(joint=None), "multipliers"),
        (lambda c: c.pop("pairs"), "structure"),
    ],
)
def test_false_claims_are_refused_even_with_good_digests(change, words, tmp_path):
    written(model_of("mondeq"), tmp_path)
    resealed(tmp_path, change)
    refused(tmp_path, words)


def flip(tensors, name):
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1).view(np.uint8)[2] ^= 0x40


def swap(tensors, name):
    tensors[name] = tensors[name][::-1].copy()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: flip(t, "2/matrix"), "matrix"),
        (lambda t: flip(t, "2/input"), "matrix"),
        (lambda t: t.update({"2/matrix": t["2/matrix"] * np.float32(0.999)}), "matrix"),
        (lambda t: t.update({"2/matrix": np.zeros_like(t["2/matrix"])}), "matrix"),
        (lambda t: t.update({"2/input": t["2/input"][:, ::-1].copy()}), "matrix"),
        (lambda t: swap(t, "joint/multipliers"), "joint"),
        (lambda t: t.update({"joint/multipliers": t["joint/multipliers"] * 1.5}), "joint"),
        (lambda t: t.update({"joint/multipliers": -t["joint/multipliers"]}), ""),
        (lambda t: t.update({"joint/multipliers": t["joint/multipliers"][:, ::-1].copy()}), "joint"),
        (lambda t: t.update({"joint/multipliers": t["joint/multipliers"][:3]}), "rows of multipliers"),
        (lambda t: t.update({"witness/states": t["witness/states"] * 1.5}), "witness"),
        (lambda t: t.update({"witness/multipliers": -t["witness/multipliers"]}), "witness"),
        (lambda t: t.update({"witness/multipliers": 1e-9 + 0 * t["witness/multipliers"][:5]}), "structure"),
        (lambda t: t.pop("witness/multipliers"), "structure"),
        (lambda t: t.update({"witness/states": t["witness/states"] + np.array([[1e-3], [-1e-3]])}), "witness"),
        (lambda t: t.pop("joint/multipliers"), "structure"),
        (lambda t: t.update({"2/matrix": t["2/matrix"] * np.nan}), "finite"),
        (lambda t: t.update({"2/matrix": (0.99 * t["2/matrix"]).astype(np.float16)}), "precision"),
        (lambda t: t.update({"2/matrix": t["2/matrix"].astype(np.float64)}), "dtype"),
    ],
)
def test_false_evidence_is_refused_even_with_good_digests(change, words, tmp_path):
    written(model_of("mondeq"), tmp_path)
    resealed(tmp_path, evidence=change)
    refused(tmp_path, words)


def forged_chain(folder, tensors, blocks, lipschitz):
    """A certificate for linear layers, made up with good digests."""
    from wellposed.certificates.filing.file import write
    from wellposed.network.materialise import weights_digest

    class Holder:
        def state_dict(self):
            return tensors

    safetensors.torch.save_file(tensors, folder / "w.safetensors")
    content = {
        "norm": "2", "lipschitz": lipschitz, "method": "", "assumptions": [], "blocks": blocks, "joint": None, "pairs": None,
        "weights_sha256": weights_digest(Holder()), "precision": "float64", "lower_bound": None,
    }  # fmt: skip
    write(folder / "c.json", content, {})


def linear_block(name, tensors, value):
    return {"name": name, "class": "Linear", "kind": "linear", "value": value, "reason": "", "tensors": tensors}


@pytest.mark.parametrize("norm", ["inf", "1"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "two"])
def test_other_norms(name, norm, tmp_path):
    model = model_of(name)
    certificate = written(model, tmp_path, norm=norm)
    file = wp.Certificate.load(tmp_path / "c.json", model)
    assert file.check() and file.lipschitz >= certificate.lipschitz and file.norm == norm
    program = Checker(tmp_path / "c.json", tmp_path / "w.safetensors")
    log = program.run()
    assert not program.unchecked and any(line.startswith("witness") for line in log)
    if norm == "inf":  # nothing is tighter by components here
        assert file.lipschitz <= certificate.lipschitz * (1 + 1e-12)


@pytest.mark.parametrize("norm", ["inf", "1"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scaled("lipschitz"), "lipschitz"),
        (scaled("joint", "value"), "joint"),
        (scaled("joint", "pairs"), "joint"),
        (scaled("pairs"), "pairs"),
        (lambda c: c.update(norm="2"), "number"),
        (lambda c: c.update(norm="3"), "format"),
        (lambda c: c.update(joint=None), "norm"),
        (lambda c: c["blocks"][2].update(activation="gelu"), "activation"),
        (lambda c: c["blocks"][0].update(kind="other"), "more than a normalisation"),
        (lambda c: c["blocks"].insert(3, {**c["blocks"][1], "class": "ReLU", "name": "x"}), "joint"),
        (lambda c: c.update(lower_bound=1.001 * c["lower_bound"]), "witness"),
        (lambda c: c["blocks"][0].update(value=1e-9), "block"),
    ],
)  # fmt: skip
def test_false_claims_in_other_norms_are_refused(change, words, norm, tmp_path):
    written(model_of("mondeq"), tmp_path, norm=norm)
    forge(tmp_path / "c.json", change)
    refused(tmp_path, words)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: swap(t, "joint/shares"),
        lambda t: t.update({"joint/shares": -t["joint/shares"]}),
        lambda t: t.update({"joint/shares": 0.0 * t["joint/shares"]}),
        lambda t: t.update({"joint/shares": t["joint/shares"][:, :5]}),
        lambda t: t.update({"joint/shares": t["joint/shares"][:, :1]}),
        lambda t: t.update({"joint/shares": np.ones((len(t["joint/shares"]), 1))}),
        lambda t: t.update({"joint/shares": 1e-320 + 0 * t["joint/shares"]}),
        lambda t: t.update({"joint/shares": 1e-60 * t["joint/shares"]}),
        lambda t: t.update({"joint/shares": np.where(t["joint/shares"] > 1.0, 0.5, t["joint/shares"])}),
        lambda t: t.pop("joint/shares"),
    ],
)
def test_false_ellipsoids_are_refused(change, tmp_path):
    written(model_of("mondeq"), tmp_path, norm="inf")
    forge(tmp_path / "c.json", evidence=change)
    with pytest.raises(Refuted):
        Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()


@pytest.mark.parametrize("norm", ["inf", "1"])
@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 4, 4), (16,), (3, 1, 1), (0, 1, 1)])
def test_normalisations_of_another_shape_are_refused(shape, norm, tmp_path):
    """By a forged weight file; a repeated or missing deviation would scale some inputs down."""
    model = model_of("mondeq")
    written(model, tmp_path, norm=norm)
    parts = {"0.mean": np.full(shape, 0.1, np.float32), "0.std": np.full(shape, 0.3, np.float32)}
    seal_weights(tmp_path, lambda tensors: tensors.update(parts))
    if shape == (2, 1, 1):  # two channels of eight pixels would do
        Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    else:
        refused(tmp_path, "")


def test_honest_normalisations_are_accepted(tmp_path):
    generator = testing.generator(0)
    for _ in range(40):
        std = 0.05 + float(testing.rand((), generator=generator))
        model = nn.Sequential(wp.Normalize((0.1,), (std,)), nn.Flatten(), wp.MonDEQ(4, 2), nn.Linear(2, 2))
        wp.certify(model).save(tmp_path / "c.json")
        safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
        Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()


@pytest.mark.parametrize("norm", [2, "inf", 1])
@pytest.mark.parametrize("case", ["equal rows", "a zero row", "no head"])
def test_degenerate_ends(case, norm, tmp_path):
    torch.manual_seed(0)
    layer, head = wp.NEMON(6, 5), nn.Linear(5, 3)
    with torch.no_grad():
        head.weight[1] = head.weight[0] if case == "equal rows" else 0.0
    model = layer if case == "no head" else nn.Sequential(layer, head)
    certificate = wp.certify(model, norm=norm, inputs=testing.randn(5, 6))
    certificate.save(tmp_path / "c.json")
    safetensors.torch.save_file(dict(model.state_dict()), tmp_path / "w.safetensors")
    Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    assert wp.Certificate.load(tmp_path / "c.json", model).check()


def test_tensors_cannot_hide_under_other_roles_or_names(tmp_path):
    small, large = testing.eye(2, dtype=torch.float64), 1e3 * testing.eye(2, dtype=torch.float64)
    weights = {"0.weight": small, "1.weight": large}
    honest = [
        linear_block("0", {"weight": "0.weight"}, 1.0 + 1e-9),
        linear_block("1", {"weight": "1.weight"}, 1e3 + 1e-3),
    ]
    forged_chain(tmp_path, weights, honest, 1.001e3)
    Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    for blocks in (
        [linear_block("0", {"weight": "0.weight", "bias": "1.weight"}, 1.01)],
        [
            linear_block("0", {"weight": "0.weight"}, 1.01),
            linear_block("1", {"weight": "0.weight", "bias": "1.weight"}, 1.01),
        ],
        [honest[0], honest[0], {**honest[1], "value": 1.01}],
        [linear_block("0", {"weight": "0.weight", "other": "1.weight"}, 1.01)],
    ):
        forged_chain(tmp_path, weights, blocks, 1.1)
        refused(tmp_path, "accounting")
    wide = {"0.weight": testing.eye(3, dtype=torch.float64), "1.weight": testing.ones(1, 2, dtype=torch.float64)}
    blocks = [linear_block("0", {"weight": "0.weight"}, 1.01), linear_block("1", {"weight": "1.weight"}, 1.5)]
    forged_chain(tmp_path, wide, blocks, 2.0)
    refused(tmp_path, "takes inputs of shape (2,), is given (3,)")


def test_cancellation_gives_a_forger_no_room(tmp_path):
    """B − Bᵀ is what rounds, not B: huge symmetric parts leave W exact."""
    torch.manual_seed(0)
    model = nn.Sequential(wp.MonDEQ(2, 1, m=0.01), nn.Linear(1, 1))
    with torch.no_grad():
        model[0].constraint.A.zero_()
        model[0].constraint.B.fill_(1e6)
    wp.certify(model).save(tmp_path / "c.json")
    safetensors.torch.save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    resealed(tmp_path, evidence=lambda t: t.update({"0/matrix": np.array([[-10.0]], dtype=np.float32)}))
    refused(tmp_path, "matrix")


def test_scaled_maps_are_compared_to_a_few_units(tmp_path):
    written(model_of("lben-bounded"), tmp_path)
    resealed(tmp_path, evidence=lambda t: t.update({"2/input": t["2/input"] * np.float32(1 - 1e-5)}))
    refused(tmp_path, "2/input")


def test_a_looser_claim_holds_once_it_is_sealed(tmp_path):
    """The refusals above are about what is false, not about what is different."""
    written(model_of("mondeq"), tmp_path)
    resealed(tmp_path, scaled("lipschitz", factor=1.01))
    Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    resealed(tmp_path, evidence=lambda t: t.update({"joint/multipliers": t["joint/multipliers"] * (1 + 1e-13)}))
    Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()


def test_blocks_without_an_independent_proof_are_named(tmp_path):
    torch.manual_seed(0)
    own = wp.register(type("Own", (wp.Sandwich,), {"nominal": lambda self: 1.0}))
    model = nn.Sequential(nn.Flatten(), own(16, 8), nn.Linear(8, 3))
    written(model, tmp_path)
    refused(tmp_path, "1: this program knows no proof for a Own")


@pytest.mark.parametrize("name", ["mondeq", "two"])
def test_the_program_stands_alone(name, tmp_path):
    """It runs without torch and without this library, in fewer than 500 lines; says what it did, and what failed."""
    written(model_of(name), tmp_path)
    done = run_alone(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the certificate holds" in done.stdout and "class" in done.stdout
    assert "foreign []" in done.stdout
    assert 300 < loaded_lines(done) < 500
    resealed(tmp_path, scaled("lipschitz"))
    done = run_alone(tmp_path)
    assert done.returncode == 1 and "FAILED  lipschitz" in done.stdout
    assert checker.main(["only one"]) == 2
    assert checker.main([str(tmp_path / "none.json"), str(tmp_path / "w.safetensors")]) == 1


@pytest.mark.parametrize("exponent", [-140, -30, 0, 30, 120])
def test_extreme_scales(exponent, tmp_path):
    """Powers of two change no digit, so certificates scale with them, until squares would leave the range of float64."""
    model = model_of("float64")
    with torch.no_grad():
        model[3].weight.mul_(2.0**exponent)
    certificate = written(model, tmp_path)
    lines = Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    assert any("joint" in line for line in lines)
    resealed(tmp_path, scaled("joint", "value"))
    refused(tmp_path, "joint")
    assert certificate.lipschitz > 0.0


def test_norms_are_proved_from_above():
    generator = np.random.default_rng(0)
    for shape in ((3, 7), (9, 4), (1, 5), (6, 6)):
        matrix = generator.normal(size=shape) * 10.0 ** generator.integers(-8, 8)
        norm = float(np.linalg.norm(matrix, 2))
        assert norm_at_most(matrix, norm * (1 + 1e-12)) and not norm_at_most(matrix, norm * (1 - 1e-9))
    assert norm_at_most(np.zeros((2, 2)), 0.0) and not norm_at_most(np.ones((2, 2)), 0.0)
    assert not norm_at_most(np.ones((2, 2)), float("nan"))


def test_a_changed_model_cannot_be_saved(tmp_path):
    model = model_of("mondeq")
    certificate = written(model, tmp_path)
    with torch.no_grad():
        model[3].weight.mul_(2.0)
    with pytest.raises(wp.CertificateError, match="another network"):
        certificate.save(tmp_path / "c.json", model)
    certificate.save(tmp_path / "c.json")  # about the network that it was given for, whose weights are in the file
    assert Checker(tmp_path / "c.json", tmp_path / "w.safetensors").run()
    with pytest.raises(wp.CertificateError, match="another ending"):
        wp.certify(model).save(tmp_path / "c.safetensors")
    with pytest.raises(wp.CertificateError, match="cannot be written"):
        wp.certify(model).save(tmp_path / "no" / "c.json")
