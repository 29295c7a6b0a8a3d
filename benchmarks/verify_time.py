"""Time to verify a deployed network on MNIST with all class pairs: seconds of one thread, in floating point and exactly.

python benchmarks/verify_time.py [--widths 40 87] [--exact]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import wellposed as wp
from wellposed.deployment.certificate import certify_file


def write(width: int, folder: Path) -> None:
    """Write a network of images with an equilibrium, untrained, and its certificate."""
    torch.manual_seed(0)
    front = wp.Normalize((0.1307,), (0.3081,)), nn.Flatten()
    model = nn.Sequential(*front, wp.MonDEQ(784, width, m=1.0), nn.Linear(width, 10)).eval()
    network = wp.export(model, folder / "m.onnx", input_shape=(1, 28, 28))
    certify_file(wp.certify(network), folder / "m.onnx", folder / "c.json")


def seconds(folder: Path, *options: str) -> float:
    """Seconds that a process of its own needs to verify it."""
    command = [sys.executable, "-m", "checker", *options, str(folder / "c.json"), str(folder / "m.onnx")]
    alone, environment = Path(wp.__file__).parent, {**os.environ, "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    subprocess.run(command, cwd=alone, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Print a line for every width."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", type=int, nargs="+", default=[40, 87])
    parser.add_argument("--exact", action="store_true")
    options = parser.parse_args()
    for width in options.widths:
        with tempfile.TemporaryDirectory() as place:
            write(width, Path(place))
            exact = f", exactly {seconds(Path(place), '--exact'):.2f} s" if options.exact else ""
            print(f"width {width:4d}: {seconds(Path(place)):.2f} s{exact}", flush=True)


if __name__ == "__main__":
    main()
