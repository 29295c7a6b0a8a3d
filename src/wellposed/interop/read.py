"""Every layout by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from wellposed.errors import InputError, check, checked_options
from wellposed.interop import bounded_convolutions, chains, convolutional, dense, non_euclidean, positive
from wellposed.interop.files import Tensors, check_layout, read_layout
from wellposed.interop.published import Published, bound_of


def _others(m: float, gamma: float | None, stride: int) -> dict[str, Callable[[Tensors], Published]]:
    """Readers of the layouts that are not of dense equilibrium layers."""
    return {
        **convolutional.layouts(m, stride), **bounded_convolutions.layouts(m, gamma, stride), **non_euclidean.layouts(m),
        **positive.layouts(stride), **chains.layouts(),
    }  # fmt: skip


LAYOUTS = (*dense.LAYOUTS, *_others(1.0, None, 1))


@checked_options
def read_published(
    path: Path, layout: str, *, m: float, gamma: float | None = None, stride: int | None = None
) -> Published:
    """Read a checkpoint.

    Args:
        path: a file of `torch.save`, of which only tensors are loaded, or a ``.mat`` file.
        layout: one of `LAYOUTS`.
        m: what files do not hold: the strong-monotonicity constant, or margin, that it was trained with; for NEMON the bound of
            the log norm, below one.
        gamma: the Lipschitz bound that it was trained with; None to take it from the file's name.
        stride: of the first convolution; None for one, as in the published programs.

    Raises:
        CheckpointError: the file is not a plain dictionary of tensors, or has other ones than the layout.
        InputError: an unknown layout, or an option that it does not have.
    """
    check_layout(layout, LAYOUTS)
    check(stride is None or stride >= 1, "stride", stride, "must be at least 1")
    if stride is not None and "-conv" not in layout and not layout.endswith("-multi"):
        raise InputError(f"stride={stride}: the layout {layout!r} has no convolutions")
    if layout in dense.LAYOUTS:
        return dense.published(dense.read_dense(path, layout, m=m, gamma=gamma))
    is_log_norm = layout in non_euclidean.layouts(0.0)
    check(m < 1.0 if is_log_norm else m > 0.0, "m", m, "must be below one" if is_log_norm else "must be positive")
    return read_layout(path, layout, _others(m, bound_of(path, gamma), stride or 1)[layout], _parts)


def _parts(found: Published) -> list[Tensor]:
    return [part for group in (*found.layers, *found.linears, *found.norms) for part in group.values()]
