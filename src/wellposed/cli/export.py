"""``wellposed export``: a run's network as one ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.training.writer import one_writer_of_run


@dataclass(frozen=True)
class Export(Common):
    """Write a run's network as one ONNX file, which any ONNX runtime executes and which bounds its own errors."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    out: Path | None = None
    """The file; default: model.onnx in the run folder."""
    data: str | None = None
    """Where the run's own data, of a user, are now."""
    tolerance: float | None = None
    """Largest error of the logits for which an answer counts; the file's error_bound is infinite above it. Default: 0.001; by
regression, 0.001 standard deviations of the targets."""


def export(arguments: list[str]) -> int:
    """``wellposed export RUN``."""
    options = parse(Export, arguments, "wellposed export")
    with one_writer_of_run(options.run):
        return _export(options)


def _export(options: Export) -> int:
    from wellposed.deployment.runtime import DeployedNetwork
    from wellposed.experiments.deployment import export_run

    path, network = export_run(
        options.run, data_root=options.data_root, tolerance=options.tolerance, out=options.out, own_data=options.data
    )
    file = DeployedNetwork(path)
    size = path.stat().st_size
    result = {
        "file": str(path), "sha256": file.sha256, "bytes": size, "input_shape": list(file.input_shape),
        "tolerance": file.tolerance, "network": network.digest,
    }  # fmt: skip
    shape = ", ".join(map(str, file.input_shape))
    inputs = (
        f"inputs x (nodes, {shape}) float32, edge_index and batch"
        if file.on_graphs
        else f"input x (batch, {shape}) float32"
    )
    text = f"{path}: {size / 1e6:.2f} MB, {inputs}, outputs logits and error_bound (infinite above {file.tolerance:g})"
    return show(result, text, options)
