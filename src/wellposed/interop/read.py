"""Every layout by its name."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from wellposed.errors import check
from wellposed.interop import bounded_convolutions, convolutional, dense, non_euclidean, positive
from wellposed.interop.files import read_layout
from wellposed.interop.published import Published, bound_of

LAYOUTS = (
    *dense.LAYOUTS, *convolutional.layouts(1.0), *bounded_convolutions.layouts(1.0, None), *non_euclidean.layouts(0.0),
    *positive.layouts(),
)  # fmt: skip


def read_published(path: Path, layout: str, *, m: float, gamma: float | None = None) -> Published:
    """Read a checkpoint.

    Args:
        path: a file of `torch.save`, of which only tensors are loaded, or a ``.mat`` file.
        layout: one of `LAYOUTS`.
        m: what files do not hold: the strong-monotonicity constant, or margin, that it was trained with; for NEMON the bound of
            the log norm, below one.
        gamma: the Lipschitz bound that it was trained with; None to take it from the file's name.

    Raises:
        CheckpointError: the file is not a plain dictionary of tensors, or has other ones than the layout.
    """
    if layout in dense.LAYOUTS:
        return dense.published(dense.read_dense(path, layout, m=m, gamma=gamma), m)
    is_log_norm = layout in non_euclidean.layouts(0.0)
    check(m < 1.0 if is_log_norm else m > 0.0, "m", m, "must be below one" if is_log_norm else "must be positive")
    others = {
        **convolutional.layouts(m), **bounded_convolutions.layouts(m, bound_of(path, gamma)), **non_euclidean.layouts(m),
        **positive.layouts(),
    }  # fmt: skip
    return read_layout(path, layout, others, _parts)


def _parts(found: Published) -> list[Tensor]:
    return [part for group in (*found.layers, found.head, *found.norms) for part in group.values()]
