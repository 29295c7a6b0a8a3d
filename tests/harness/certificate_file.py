"""Certificate files: written, checked as a stranger does, and forged by somebody who knows how their digests are made."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import safetensors.numpy
import safetensors.torch
from wellposed.certificates.filing.file import seal
from wellposed.checker import Checker, Refuted

import wellposed as wp
from wellposed import checker, testing


def forge(path, change=None, evidence=None):
    """Change a certificate file's claim or evidence in place, and seal it anew.

    Args:
        path: of the JSON file.
        change: called with the claim, a dict.
        evidence: called with the evidence, a dict of numpy arrays.
    """
    content = json.loads(path.read_text())
    beside = path.with_name(content["evidence"]["file"])
    if evidence is not None:
        tensors = safetensors.numpy.load_file(beside)
        evidence(tensors)
        data = safetensors.numpy.save(tensors)
        beside.write_bytes(data)
        content["evidence"]["sha256"] = hashlib.sha256(data).hexdigest()
    if change is not None:
        change(content)
    content.pop("sha256")
    path.write_text(json.dumps({**content, "sha256": seal(content)}))


def seal_weights(folder, change):
    """Change the weight file, and the digest of it in the claim."""
    tensors = safetensors.numpy.load_file(folder / "w.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "w.safetensors")
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name}|torch.{array.dtype}|{array.shape}|".encode())
        digest.update(array.tobytes())
    forge(folder / "c.json", lambda content: content.update(weights_sha256=digest.hexdigest()))


def written(model, folder, shape=(1, 4, 4), *, witnessed=True, **options):
    """Certify a model, with a lower bound from random inputs if wanted; write c.json, c.safetensors and w.safetensors."""
    dtype = next(model.parameters()).dtype
    inputs = testing.rand(6, *shape, dtype=dtype) if witnessed and shape is not None else None
    certificate = wp.certify(model, inputs=inputs, **options)
    certificate.save(folder / "c.json")
    tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / "w.safetensors")
    return certificate


def refused(folder, words):
    """The certificate of a folder is refused, for a reason with these words."""
    with pytest.raises(Refuted) as caught:
        Checker(folder / "c.json", folder / "w.safetensors").run()
    assert words in str(caught.value), str(caught.value)


def scaled(*path, factor=0.99):
    """A change of a claim: multiplies a number or a matrix in it."""

    def change(content):
        for key in path[:-1]:
            content = content[key]
        value = content[path[-1]]
        content[path[-1]] = [[factor * v for v in row] for row in value] if isinstance(value, list) else factor * value

    return change


ALONE = """
import runpy, sys
sys.argv[1:] = ["c.json", "w.safetensors"]
try:
    runpy.run_module("checker", run_name="__main__")
finally:
    used = [module for name, module in sys.modules.items() if name.split(".")[0] == "checker"]
    print("files", *{module.__file__ for module in used if getattr(module, "__file__", None)})
    print("foreign", [name for name in sys.modules if name.split(".")[0] in ("torch", "wellposed", "scipy")])
"""


def run_alone(folder):
    """The checker as a stranger runs it: a copy of its folder, by itself."""
    shutil.copytree(Path(checker.__file__).parent, folder / "checker", dirs_exist_ok=True)
    return subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False, cwd=folder)


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


def loaded_lines(done):
    """Of all files of the checker that a run has loaded, none of which is long."""
    files = next(line for line in done.stdout.splitlines() if line.startswith("files")).split()[1:]
    assert all(len(Path(file).read_text().splitlines()) < 500 for file in files)
    return sum(code_lines(file) for file in files)
