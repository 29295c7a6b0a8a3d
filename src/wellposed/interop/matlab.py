"""Matrices out of ``.mat`` files, read by scipy in a process of its own.

The reader is written in C and may crash, hang or take all memory on broken files. Its process gets the file's bytes, works in an
empty folder and looks for modules where Python and this process's own numpy are installed, and nowhere else: files beside the one
that is read, in the current folder, or named by environment variables are never run.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import CheckpointError, MissingExtraError

_LARGEST_FILE = 2**29  # bytes
_MEMORY = 2**33  # bytes of address space, with what the libraries reserve
_SECONDS = 120.0

_READER = """
import sys
sys.path.append(sys.argv[1])
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
except (ImportError, ValueError, OSError):
    pass
import io
try:
    import numpy, scipy.io
except ModuleNotFoundError:
    sys.exit(3)
content = scipy.io.loadmat(io.BytesIO(sys.stdin.buffer.read()))
arrays = {name: numpy.asarray(array).astype("f8", casting="safe") for name, array in content.items() if name[:2] != "__"}
numpy.savez(sys.stdout.buffer, **arrays)
"""
_NO_SCIPY = 3  # exit code


def read_matlab(path: Path) -> dict[str, Tensor]:
    """Float64 matrices of a ``.mat`` file up to version 7.

    Raises:
        CheckpointError: the file is not one of matrices, or too large, or takes too long to read.
        MissingExtraError: scipy is not installed.
    """
    if path.stat().st_size > _LARGEST_FILE:
        raise CheckpointError(f"{path}: has {path.stat().st_size} bytes; .mat files of up to {_LARGEST_FILE} are read")
    # The folder that holds this process's own numpy is trusted: its code runs already.
    packages = str(Path(np.__file__).resolve().parents[1])
    command = [sys.executable, "-I", "-c", _READER, packages, str(_MEMORY)]
    with tempfile.TemporaryDirectory() as empty:
        try:
            found = subprocess.run(
                command, input=path.read_bytes(), capture_output=True, check=False, cwd=empty, timeout=_SECONDS,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(f"{path}: reading took more than {_SECONDS:g} seconds") from error
    if found.returncode == _NO_SCIPY:
        raise MissingExtraError("reading .mat files needs scipy: pip install 'wellposed[train]'")
    if found.returncode:
        reason = found.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckpointError(f"{path}: not a readable .mat file of matrices ({reason[:200]})")
    with np.load(io.BytesIO(found.stdout), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
