"""``wellposed import``: published weights as a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wellposed.cli.options import Common, parse, show


@dataclass(frozen=True)
class Import(Common):
    """Published weights as a run folder, to certify, attack and verify."""

    file: tyro.conf.Positional[Path] = Path()
    """The checkpoint; only its tensors are loaded."""
    layout: Annotated[str, tyro.conf.arg(name="as")] = "locuslab-mondeq"
    """Layout of the file: locuslab-mondeq, locuslab-mondeq-conv, locuslab-mondeq-multi, semialgebraic (.mat), lben, lben-lambda,
    lben-gamma, lben-gamma-lambda, lben-mondeq, lben-unconstrained, lben-conv, lben-conv-gamma, lben-conv-gamma-raw, nemon,
    nemon-robust, pcdeq2, pcdeq1-tanh, pcdeq1-softsign, pcdeq1-relu6, the last four with -conv and -multi, and relu-chain for a
    torch.nn.Sequential of linear maps and ReLU."""
    m: float = 1.0
    """Strong-monotonicity constant, or margin, that it was trained with; for nemon the bound of the log norm, below one."""
    gamma: float | None = None
    """Lipschitz bound that it was trained with; default: from the file's name."""
    stride: int | None = None
    """Stride of the first convolution, which files do not hold; default: one, as published."""
    data: str = "mnist"
    """Images that it was trained on."""
    limit: int | None = None
    """Number of test images that the error is measured on; default: all."""
    out: Path | None = None
    """The run folder; default: runs/NAME-OF-THE-FILE."""


def import_weights(arguments: list[str]) -> int:
    """``wellposed import FILE``."""
    options = parse(Import, arguments, "wellposed import")
    from wellposed.experiments.imported import import_run

    out = Path("runs") / options.file.stem if options.out is None else options.out
    folder, error = import_run(
        options.file,
        options.layout,
        out,
        data=options.data,
        data_root=options.data_root,
        m=options.m,
        gamma=options.gamma,
        stride=options.stride,
        limit=options.limit,
    )
    text = f"{folder.path}: test error {100 * error:.2f} %"
    return show({"run": str(folder.path), "test_error": error}, text, options)
