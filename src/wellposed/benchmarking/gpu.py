"""``python -m wellposed.benchmarking.gpu``: the CUDA tests and the benchmarks of one GPU, in eight minutes at most.

The record is written after every part, so that an interruption loses the rest only. It needs torch and this library; pytest for
the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wellposed.benchmarking.contestant import OWN, importing_from, is_installed
from wellposed.benchmarking.gpu_epoch import epoch
from wellposed.benchmarking.gpu_solves import solves
from wellposed.benchmarking.roofline import Roofline
from wellposed.training.environment import environment

# Seconds that the tests may take, after which no further row begins, and that the epoch may take: 7 minutes in all.
_TESTS, _ROWS, _EPOCH = 180, 290, 120


def main(arguments: list[str]) -> int:
    """Measure what there is, and write gpu.json."""
    parser = argparse.ArgumentParser(prog="python -m wellposed.benchmarking.gpu", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "docs/records/speed")), help="folder of gpu.json"
    )
    parser.add_argument("--data-root", type=Path, help="folder with CIFAR-10; without it, images are synthetic")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small cases, and no tests: to see that everything works")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return 0
    record = {
        "environment": {
            **environment(["python", "-m", "wellposed.benchmarking.gpu", *arguments]),
            "device": _name(device),
        }
    }
    for name, part in _parts(device, options).items():
        record[name] = part()
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(record[name])}", flush=True)
    return 0


def _parts(device: torch.device, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    begin, limits = time.monotonic(), list[Roofline]()

    def roofline() -> dict[str, float]:
        limits.append(Roofline.measured(device, tiny=options.tiny))
        return asdict(limits[0])

    def rows() -> list[dict[str, Any]]:
        found = []
        for row in solves(device, limits[0], tiny=options.tiny):
            found.append(asdict(row))
            if time.monotonic() - begin > _ROWS:
                break
        return found

    return {
        "tests": lambda: "left out" if options.tiny else cuda_tests(OWN.parent),
        "roofline": roofline,
        "rows": rows,
        "epoch": lambda: epoch(device, options.data_root, seconds=_EPOCH, tiny=options.tiny),
    }


def cuda_tests(checkout: Path) -> str:
    """The closing line of the CUDA tests of a checkout, or why there is none."""
    if not (checkout / "tests" / "test_gpu.py").exists():
        return "no tests here"
    if not is_installed("pytest"):
        return "pytest is not installed"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    try:
        done = subprocess.run(
            command,
            cwd=checkout,
            env=importing_from(OWN),
            capture_output=True,
            text=True,
            timeout=_TESTS,
        )
    except subprocess.TimeoutExpired:
        return f"not finished in {_TESTS} s"
    print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    lines = done.stdout.strip().splitlines()
    return lines[-1].strip("= ") if lines else f"exit code {done.returncode}"


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
