"""Time of `certify` without inputs, all class pairs included, against another version of this library, in turns.

    python benchmarks/certify_time.py PATH [--repeats N] [--widths 40 87 200]

PATH is a checkout of the other version. Every measurement is a process of its own with one thread; versions take turns, the
medians are compared, and the constants must not be larger.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import wellposed as wp
from torch import nn
width = int(sys.argv[1])
torch.manual_seed(0)
front = wp.Normalize((0.1307,), (0.3081,)), nn.Flatten()
model = nn.Sequential(*front, wp.MonDEQ(784, width, m=1.0), nn.Linear(width, 10)).eval()
wp.certify(model, method="product")  # what is done once in a process
begin = time.process_time()
certificate = wp.certify(model)
print(json.dumps([time.process_time() - begin, certificate.lipschitz, float(certificate.pairs.sum())]))
"""


def measure(source: Path, width: int) -> list[float]:
    """Seconds of CPU time, the constant and the sum of those of class pairs."""
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(width)], env=environment, capture_output=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a line for every width."""
    parser = argparse.ArgumentParser()
    parser.add_argument("other", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--widths", type=int, nargs="+", default=[40, 87, 200])
    options = parser.parse_args()
    here = Path(__file__).parent.parent
    for width in options.widths:
        runs = [(measure(options.other, width), measure(here, width)) for _ in range(options.repeats)]
        for other, own in runs:
            assert own[1] <= other[1] * (1 + 1e-9) and own[2] <= other[2] * (1 + 1e-9), "other constants"
        before, now = (statistics.median(run[place][0] for run in runs) for place in (0, 1))
        spread = sorted(own[0] / other[0] for other, own in runs)
        ratios = f"ratio {now / before:.3f} (single ratios {spread[0]:.2f} to {spread[-1]:.2f})"
        print(f"width {width:4d}: {before:7.3f} s, {now:7.3f} s, {ratios}")


if __name__ == "__main__":
    main()
