"""Time of `certify` without inputs, all class pairs included, and of the ladder per image, against another version, in turns.

    python benchmarks/certify_time.py PATH [--repeats N] [--widths 87 200] [--alone 600] [--images 60] [--json FILE]

PATH is a checkout of the other version. Every measurement is a process of its own with one thread, in CPU seconds; versions take
turns, the medians are compared, the constants must not be larger and the verdicts must be the same. Widths of ``--alone`` are
measured here only, as the other version leaves the metric out there. The ladder (ℓ∞ boxes of 0.05, images of $WELLPOSED_DATA) is
measured on a network of width 40 that is trained first, without what depends on the weights alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_START = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import wellposed as wp
from torch import nn
def network(width, m):
    torch.manual_seed(0)
    front = wp.Normalize((0.1307,), (0.3081,)), nn.Flatten()
    return nn.Sequential(*front, wp.MonDEQ(784, width, m=m), nn.Linear(width, 10))
"""
_CERTIFY = f"""{_START}
model = network(int(sys.argv[1]), 1.0).eval()
wp.certify(model, method="product")  # what is done once in a process
begin = time.process_time()
certificate = wp.certify(model, method="metric")
print(json.dumps([time.process_time() - begin, certificate.lipschitz, float(certificate.pairs.sum())]))
"""
_TRAIN = f"""{_START}
from wellposed.data import load_images
data, model = load_images("mnist", None), network(40, 20.0)
optimizer = torch.optim.Adam(model.parameters())
for epoch in range(12):
    for group in optimizer.param_groups:
        group["lr"] = 3e-3 * (1.0 - epoch / 12)
    for rows in torch.randperm(len(data.train_x)).split(200):
        loss = nn.functional.cross_entropy(model(data.train_x[rows]), data.train_y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
torch.save([model.state_dict(), data.test_x[:1000], data.test_y[:1000]], sys.argv[1])
"""
_VERIFY = f"""{_START}
state, x, y = torch.load(sys.argv[1])
model = network(40, 20.0)
model.load_state_dict(state)
verifier = wp.Verifier(model.eval())
verifier.network.slopes, [verifier.pair(i, j) for i in range(10) for j in range(i)]
begin, found, count = time.process_time(), [], int(sys.argv[2])
for rows, labels in zip(x[:count].split(20), y[:count].split(20)):
    found += verifier.verify_batch(rows, labels.tolist(), 0.05, norm="inf", seconds=600.0)
print(json.dumps([(time.process_time() - begin) / count, [verdict.status for verdict in found]]))
"""


def measure(source: Path, program: str, *arguments: object) -> list[Any]:
    """What a program prints last with the library of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else []


def compare(name: str, runs: list[tuple[list[Any], list[Any]]]) -> dict[str, Any]:
    """Medians of two versions, other and own."""
    before, now = (statistics.median(run[place][0] for run in runs) for place in (0, 1))
    ratios = [own[0] / other[0] for other, own in runs]
    row = {
        "what": name,
        "before": before,
        "now": now,
        "ratio": now / before,
        "least": min(ratios),
        "largest": max(ratios),
    }
    print(
        f"{name}: {before:7.3f} s, {now:7.3f} s, ratio {row['ratio']:.3f} ({row['least']:.2f} to {row['largest']:.2f})",
        flush=True,
    )
    return row


def main() -> None:
    """Print a line for every width, and one for the ladder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("other", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="*", default=[40, 87, 200])
    parser.add_argument("--alone", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    here, rows, times = Path(__file__).parent.parent, [], {}
    for width in options.widths:
        runs = [
            (measure(options.other, _CERTIFY, width), measure(here, _CERTIFY, width)) for _ in range(options.repeats)
        ]
        for other, own in runs:
            assert own[1] <= other[1] * (1 + 1e-9) and own[2] <= other[2] * (1 + 1e-9), "larger constants"
        rows.append(compare(f"width {width}", runs))
        times[width] = rows[-1]["now"]
    for width in options.alone:
        seconds = measure(here, _CERTIFY, width)[0]
        growth = {other: seconds / ((width / other) ** 3 * before) for other, before in times.items()}
        rows.append({"what": f"width {width}", "now": seconds, "over cubes": growth})
        print(f"width {width}: {seconds:7.3f} s; over the cubes of widths, of {growth}", flush=True)
    if options.images:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trained.pt"
            measure(here, _TRAIN, path)
            runs = [
                (measure(options.other, _VERIFY, path, options.images), measure(here, _VERIFY, path, options.images))
                for _ in range(options.repeats)
            ]
        assert all(other[1] == own[1] for other, own in runs), "other verdicts"
        rows.append(compare("ladder, ℓ∞ 0.05, an image", runs))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
