"""Training steps against another version of the library, and against the original algorithms, at equal true error.

``python benchmarks/training_steps.py --rival PATH`` with the path of another version's ``src``. Each side runs in a process of
its own with one thread; the two take turns, and medians of their process CPU times are compared. Both have the same weights and
inputs. Accuracy comes first: a solve in float64 says the true errors of values and gradients of both, and the rival's tolerance
is the loosest one at which its values are about as exact as ours are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
# Rows: name, rival, the ratio that is wanted, whether steps are of training, batch.
CASES: dict[str, tuple[str, float, bool, int]] = {
    "NEMON 512": ("version", 0.40, True, 128),
    "PcDEQ 512": ("version", 0.55, True, 128),
    "ConvPcDEQ 24": ("version", 0.25, True, 16),
    "ConvMonDEQ 54": ("version", 0.40, True, 16),
    "ConvOrthogonalDEQ 64": ("version", 0.25, True, 128),
    "OrthogonalDEQ 400 eval": ("version", 0.10, False, 1),
    "MonDEQ 40": ("authors", 0.45, True, 128),
    "MonDEQ 87": ("authors", 0.42, True, 128),
    "MonDEQ 200": ("authors", 0.46, True, 128),
    "MonDEQ 512": ("authors", 0.58, True, 128),
    "ConvMonDEQ 32": ("authors", 0.35, True, 16),
}
# By how much a rival may be less exact than we are.
SLACK = 1.25


def build(name: str, rtol: float | None, dtype: Any) -> Any:
    """The layer of a row, in the version of the library that this process imports."""
    import wellposed as wp

    family, size = name.split()[0], int(name.split()[1])
    options = {"dtype": dtype, "rtol": rtol, "atol": rtol}
    if family in ("MonDEQ", "NEMON", "PcDEQ"):
        return getattr(wp, family)(784, size, **options)
    if family == "OrthogonalDEQ":
        return wp.OrthogonalDEQ(784, size, **options)
    if family == "ConvOrthogonalDEQ":
        return wp.ConvOrthogonalDEQ(size, size, (8, 8), **options)
    border = {"border": 1} if name == "ConvMonDEQ 32" else {}
    return getattr(wp, family)(1, size, (28, 28), **border, **options)


def original(name: str, tol: float, alpha: float, layer: Any) -> Any:
    """The original algorithm with a layer's weights."""
    import torch
    from original_mondeq import OriginalConvMonDEQ, OriginalMonDEQ

    size = int(name.split()[1])
    if name.startswith("Conv"):
        rival: Any = OriginalConvMonDEQ(1, size, (28, 28), 1.0, alpha, tol)
        with torch.no_grad():
            rival.U.weight.copy_(layer.injection.weight)
            rival.U.bias.copy_(layer.injection.bias)
            for own, given in ((rival.A0, layer.constraint.A), (rival.B0, layer.constraint.B)):
                own.copy_(given)
            rival.g.copy_(layer.constraint.A.norm() ** 2)
            rival.h.copy_(layer.constraint.B.norm())
        return rival
    rival = OriginalMonDEQ(784, size, 1.0, alpha, tol)
    with torch.no_grad():
        rival.U.weight.copy_(layer.injection.weight)
        rival.U.bias.copy_(layer.injection.bias)
        rival.A.weight.copy_(layer.constraint.A)
        rival.B.weight.copy_(layer.constraint.B)
    return rival


class Side:
    """One of the two, in its process: answers requests, one line of JSON each."""

    def __init__(self, folder: Path) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.folder = torch, folder
        self.model: Any = None

    def prepare(self, name: str, batch: int) -> None:
        """Weights, input, cotangent and the reference in float64, for both sides."""
        torch = self.torch
        torch.manual_seed(0)
        layer = build(name, None, torch.float32)
        x = torch.rand(batch, *layer.input_shape)
        exact = build(name, 1e-10, torch.float64)
        exact.load_state_dict(layer.state_dict())
        found = exact.solve(x.double())
        cotangent = torch.randn(found.value.shape, dtype=torch.float64) / found.value[0].numel()
        found.value.backward(cotangent)
        bound = float((found.error_bound / found.value.detach().flatten(1).norm(dim=1)).max())
        kept = {
            "state": layer.state_dict(), "x": x, "cotangent": cotangent.float(), "value": found.value.detach(),
            "gradients": {key: part.grad for key, part in exact.named_parameters()}, "bound": bound,
        }  # fmt: skip
        torch.save(kept, self.folder / "case.pt")

    def start(
        self, name: str, rtol: float | None, kind: str, alpha: float = 1.0, train: bool = True
    ) -> dict[str, float]:
        """Build the model; its largest errors of values and of gradients, relative to the reference."""
        torch = self.torch
        kept = torch.load(self.folder / "case.pt", weights_only=False)
        layer = build(name, rtol, torch.float32)
        layer.load_state_dict(kept["state"])
        model = layer if kind == "version" else original(name, rtol or 1e-5, alpha, layer)
        self.x, self.cotangent, self.model, self.train = kept["x"], kept["cotangent"], model, train
        if not train:
            model.eval()
        value = model(self.x)
        true = kept["value"]
        away = (value.detach().double().reshape(true.shape) - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)
        value.backward(self.cotangent.reshape(value.shape))
        gradients = {key: part.grad for key, part in model.named_parameters()}
        if kind == "version":
            worst = max(
                float((gradients[key].double() - g).norm() / g.norm().clamp_min(1e-30))
                for key, g in kept["gradients"].items() if g is not None and gradients[key] is not None
            )  # fmt: skip
        else:
            g = kept["gradients"]["injection.weight"]
            worst = float((gradients["U.weight"].double() - g).norm() / g.norm())
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
        counts = sum(getattr(model, "iterations", (0, 0)))
        return {"value": float(away.max()), "gradient": worst, "iterations": counts}

    def steps(self, count: int) -> list[float]:
        """Process CPU seconds of some steps."""
        torch, seconds = self.torch, []
        for _ in range(count):
            begin = time.process_time()
            if self.train:
                self.optimizer.zero_grad(set_to_none=True)
                value = self.model(self.x)
                value.backward(self.cotangent.reshape(value.shape))
                self.optimizer.step()
            else:
                with torch.no_grad():
                    self.model(self.x)
            seconds.append(time.process_time() - begin)
        return seconds


def serve(folder: str) -> None:
    """Answer requests until there are none."""
    side, out = Side(Path(folder)), os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        method = getattr(side, request.pop("do"))
        print(json.dumps(method(**request)), file=out, flush=True)


class Process:
    """A `Side` with its own version of the library."""

    def __init__(self, source: Path, folder: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{source}:{HERE.parent}", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE), "--serve", folder], env=environment, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, do: str, **request: Any) -> Any:
        """The answer to one request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def fitted(rival: Process, name: str, kind: str, train: bool, wanted: float) -> dict[str, float]:
    """Start the rival at the loosest tolerance at which its values are about as exact as is wanted."""
    alpha = best_step(rival, name) if kind == "authors" else 1.0
    tried: Callable[[float | None], Any] = lambda tol: rival.ask(  # noqa: E731
        "start", name=name, rtol=tol, kind=kind, alpha=alpha, train=train
    )
    for power in range(4, 14):
        tol = 10.0 ** (-power / 2.0)
        found = tried(tol)
        if found["value"] <= SLACK * wanted:
            return {**found, "rtol": tol, "alpha": alpha}
    return {**found, "rtol": tol, "alpha": alpha}


def best_step(rival: Process, name: str) -> float:
    """The step of the authors' tuner: halved while iterations fall."""
    best, fewest = 1.0, 10**9
    for power in range(5):
        count = rival.ask("start", name=name, rtol=1e-4, kind="authors", alpha=0.5**power)["iterations"]
        if count >= fewest:
            break
        best, fewest = 0.5**power, count
    return best


def row(name: str, rival_source: Path | None, rounds: int, each: int) -> dict[str, Any] | None:
    """One comparison; None where the rival is a version and none is given."""
    kind, wanted, train, batch = CASES[name]
    if kind == "version" and rival_source is None:
        return None
    own = HERE.parent.parent / "src"
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Process(own, folder), Process(own if kind == "authors" else rival_source or own, folder)
        ours.ask("prepare", name=name, batch=batch)
        found = ours.ask("start", name=name, rtol=None, kind="version", train=train)
        rival = fitted(theirs, name, kind, train, found["value"])
        times: tuple[list[float], list[float]] = ([], [])
        for side in (ours, theirs):
            side.ask("steps", count=max(each // 2, 1))
        for _ in range(rounds):
            for side, kept in zip((ours, theirs), times, strict=True):
                kept.extend(side.ask("steps", count=each))
        ours.close()
        theirs.close()
    medians = [statistics.median(part) for part in times]
    return {
        "row": name, "rival": kind, "ratio": medians[0] / medians[1], "wanted": wanted, "ours": medians[0],
        "theirs": medians[1], "our_error": found, "their_error": rival,
    }  # fmt: skip


def main() -> None:
    """Print one line per row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--rival", type=Path, help="the src folder of another version")
    parser.add_argument("--rows", nargs="+", default=list(CASES), help="names, or their beginnings")
    parser.add_argument("--quick", action="store_true", help="a few steps a row")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve)
        return
    results = []
    print(f"{'row':24s} ratio (wanted)   ours ms theirs ms   errors of values, of gradients: ours | theirs")
    for name in CASES:
        if not any(name.startswith(given) for given in arguments.rows):
            continue
        found = row(name, arguments.rival, 3 if arguments.quick else 9, 2 if arguments.quick else 5)
        if found is None:
            continue
        results.append(found)
        own, other = found["our_error"], found["their_error"]
        print(
            f"{name:24s} {found['ratio']:5.3f} ({found['wanted']:4.2f}) "
            f"{found['ours'] * 1e3:9.2f} {found['theirs'] * 1e3:9.2f}   "
            f"{own['value']:.1e} {own['gradient']:.1e} | {other['value']:.1e} {other['gradient']:.1e}  tol {other['rtol']:.0e} "
            f"α={other['alpha']:g}",
            flush=True,
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
