"""Deployed files with their certificates: written, checked as a stranger does, changed, and sealed anew."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from torch import nn

import wellposed as wp
from wellposed import checker
from wellposed.certificates import Certificate
from wellposed.checker import Refuted, check
from wellposed.deployment import certify_file, export


def written(model: nn.Module, folder: Path, shape: tuple[int, ...], *, norm: str = "2", **options: Any) -> Certificate:
    """Export and certify a model: m.onnx, c.json, c.safetensors."""
    network = export(model.eval(), folder / "m.onnx", input_shape=shape)
    certificate = wp.certify(network, norm=norm, **options)
    certify_file(certificate, folder / "m.onnx", folder / "c.json")
    return certificate


def accepted(folder: Path) -> list[str]:
    """What the checker says of the files of a folder, which it accepts."""
    return check(folder / "c.json", folder / "m.onnx")


def is_accepted(folder: Path) -> bool:
    """Whether it accepts them."""
    try:
        accepted(folder)
    except Refuted:
        return False
    return True


def refused(folder: Path, words: str) -> None:
    """The checker refuses them, for a reason with these words."""
    with pytest.raises(Refuted) as caught:
        accepted(folder)
    assert words in str(caught.value), str(caught.value)


def claim_of(folder: Path) -> dict[str, Any]:
    """The claim of a folder."""
    found: dict[str, Any] = json.loads((folder / "c.json").read_text())
    return found


def forge(
    folder: Path,
    claim: Callable[[dict[str, Any]], object] | None = None,
    evidence: Callable[[dict[str, np.ndarray]], object] | None = None,
    model: Callable[[onnx.ModelProto], object] | None = None,
) -> None:
    """Change the files of a folder by functions of their contents, and seal them anew."""
    content = claim_of(folder)
    if model is not None:
        known = onnx.load(folder / "m.onnx")
        model(known)
        data = known.SerializeToString(deterministic=True)
        (folder / "m.onnx").write_bytes(data)
        content["model_sha256"] = hashlib.sha256(data).hexdigest()
    if evidence is not None:
        tensors = safetensors.numpy.load_file(folder / "c.safetensors")
        evidence(tensors)
        data = safetensors.numpy.save(tensors)
        (folder / "c.safetensors").write_bytes(data)
        content["evidence"]["sha256"] = hashlib.sha256(data).hexdigest()
    if claim is not None:
        claim(content)
    seal(folder, content)


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Write a claim with its digest."""
    content.pop("sha256", None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (folder / "c.json").write_text(json.dumps({**content, "sha256": digest}, indent=1))


def stored(model: onnx.ModelProto, words: str) -> onnx.TensorProto:
    """The first stored number whose name contains some words."""
    return next(tensor for tensor in model.graph.initializer if words in tensor.name)


def changed(tensor: onnx.TensorProto, change: Callable[[np.ndarray], Any]) -> None:
    """Change a stored number in place."""
    array = onnx.numpy_helper.to_array(tensor)
    tensor.raw_data = np.ascontiguousarray(change(array.copy()), array.dtype).tobytes()


def slopes(network: wp.Network, shape: tuple[int, ...], norm: str, *, count: int = 40) -> tuple[float, np.ndarray]:
    """The largest slopes of all outputs and of their margins that differences of random inputs show."""
    exact, order = network.exact, float(norm)
    x = torch.randn(count, *shape, dtype=torch.float64)
    d = 1e-4 * torch.randn(count, *shape, dtype=torch.float64).sign() * (torch.rand(count, *shape) < 0.7)
    d[: count // 2] = 1e-4 * torch.nn.functional.one_hot(torch.arange(count // 2) % d[0].numel(), d[0].numel()).reshape(
        -1, *shape
    )
    d = d + 1e-9 * torch.randn_like(d)
    apart = (exact(x + d) - exact(x)).flatten(1)
    size = torch.linalg.vector_norm(d.flatten(1), order, dim=1)
    whole = torch.linalg.vector_norm(apart, order, dim=1) / size
    pairs = (apart[:, :, None] - apart[:, None]).abs() / size[:, None, None]
    return float(whole.max()), pairs.amax(0).numpy()


def run_alone(folder: Path) -> subprocess.CompletedProcess[str]:
    """The checker as a stranger runs it: a copy of its folder, by itself."""
    shutil.copytree(Path(checker.__file__).parent, folder / "checker")
    code = (
        "import runpy, sys; sys.argv[1:] = ['c.json', 'm.onnx']\n"
        "try:\n    runpy.run_module('checker', run_name='__main__')\n"
        "finally:\n    print('foreign', [n for n in sys.modules if n.split('.')[0] in ('torch', 'wellposed', 'scipy')])\n"
        "    print('files', *{m.__file__ for n, m in sys.modules.items() if n.startswith('checker')})\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)


def code_lines(path):
    """How many lines of a file are neither blank, nor comments, nor docstrings."""
    text = Path(path).read_text(encoding="utf-8")
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in quiet:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found -= set(range(node.lineno, node.end_lineno + 1))
    return len(found)


def set_to(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """A change that sets all entries of an array to a value."""
    return lambda array: np.full_like(array, value)


def times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """A change that multiplies an array."""
    return lambda array: array * factor
