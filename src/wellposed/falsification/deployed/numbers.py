"""Changes of the numbers that a deployed file stores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from onnx import TensorProto, helper, numpy_helper

from wellposed.checker.shapes import SCALARS
from wellposed.falsification.deployed.files import Array, Files, Impossible

_FACTORS = (0.5, 0.9, 0.999, 1.0 - 1e-6, 1.001, 1.1, 2.0)


def chosen(
    rng: Generator, files: Files, fits: Callable[[Array], bool] = lambda array: True
) -> tuple[TensorProto, Array]:
    """One of the stored tensors that fit, with its numbers."""
    known = [(tensor, numpy_helper.to_array(tensor)) for tensor in files.model.graph.initializer]
    known = [(tensor, array) for tensor, array in known if fits(array)]
    if not known:
        raise Impossible
    return known[rng.integers(len(known))]


def put(tensor: TensorProto, array: Array) -> None:
    """Store other numbers in a tensor."""
    tensor.raw_data, tensor.data_type = (
        np.array(array, order="C").tobytes(),
        helper.np_dtype_to_tensor_dtype(array.dtype),
    )
    del tensor.dims[:]
    tensor.dims.extend(array.shape)


def _is_real(array: Array) -> bool:
    return array.dtype.kind == "f" and array.ndim > 0


def _is_matrix(array: Array) -> bool:
    return array.ndim > 1 and max(array.shape) > 1


def bit(rng: Generator, files: Files) -> None:
    """One bit of one number."""
    tensor, array = chosen(rng, files)
    data = bytearray(array.tobytes())
    place = int(rng.integers(8 * len(data)))
    data[place // 8] ^= 1 << place % 8
    tensor.raw_data = bytes(data)


def scaled(rng: Generator, files: Files) -> None:
    """A tensor times a number."""
    tensor, array = chosen(rng, files, _is_real)
    put(tensor, (array * rng.choice(_FACTORS)).astype(array.dtype))


def negated(rng: Generator, files: Files) -> None:
    """A tensor, one of its rows, or one of its entries, with the other sign."""
    tensor, array = chosen(rng, files, _is_real)
    signs = np.ones(array.shape if rng.random() < 0.5 else (len(array), *[1] * (array.ndim - 1)), array.dtype)
    signs.reshape(-1)[rng.integers(signs.size)] = -1.0
    put(tensor, -array if rng.random() < 0.4 else array * signs)


def permuted(rng: Generator, files: Files) -> None:
    """Rows or columns in another order, or two blocks of rows exchanged."""
    tensor, array = chosen(rng, files, lambda found: found.ndim > 0 and max(found.shape) > 1)
    axis = int(rng.choice([place for place, extent in enumerate(array.shape) if extent > 1]))
    count = array.shape[axis]
    order = rng.permutation(count) if rng.random() < 0.5 else np.roll(np.arange(count), rng.integers(1, count))
    put(tensor, np.take(array, order, axis))


def transposed(rng: Generator, files: Files) -> None:
    """A matrix transposed, or read column by column."""
    tensor, array = chosen(rng, files, _is_matrix)
    put(tensor, array.T if rng.random() < 0.7 else array.T.reshape(array.shape))


def entry(rng: Generator, files: Files) -> None:
    """One entry, or all of them a little."""
    tensor, array = chosen(rng, files, _is_real)
    changed, place = array.copy(), rng.integers(array.size)
    if rng.random() < 0.4:
        changed = changed + 10.0 ** -rng.integers(1, 7) * np.abs(array).max() * rng.standard_normal(array.shape)
    else:
        changed.reshape(-1)[place] *= rng.choice([0.0, 0.5, 0.99, 1.01, 3.0, 1e-20])
    put(tensor, changed.astype(array.dtype))


def zeros(rng: Generator, files: Files) -> None:
    """Zeros for a tensor, a row or a column."""
    tensor, array = chosen(rng, files, _is_real)
    changed = array.copy()
    if rng.random() < 0.4:
        changed[...] = 0.0
    else:
        changed[..., rng.integers(array.shape[-1])] = 0.0
    put(tensor, changed)


def shaped(rng: Generator, files: Files) -> None:
    """A tensor of another shape or another type."""
    tensor, array = chosen(rng, files)
    ways: list[Callable[[], Array]] = [
        lambda: array[..., None], lambda: array[None], lambda: array.reshape(-1), lambda: array.astype(np.float64),
        lambda: array.astype(np.float32), lambda: array.astype(np.int64), lambda: np.concatenate([array, array[:1]]),
        lambda: array[: max(1, len(array) // 2)],
    ]  # fmt: skip
    try:
        put(tensor, ways[rng.integers(len(ways))]())
    except (TypeError, ValueError, IndexError) as error:  # of a scalar
        raise Impossible from error


def exchanged(rng: Generator, files: Files) -> None:
    """The numbers of two tensors exchanged, with their shapes or without them."""
    (first, one), (second, other) = chosen(rng, files), chosen(rng, files)
    if rng.random() < 0.5:
        put(first, other)
        put(second, one)
    else:
        first.raw_data, second.raw_data = second.raw_data, first.raw_data


def option(rng: Generator, files: Files) -> None:
    """A single number that decides something: a sensitivity, a floor, the ε of a normalisation, an overlap, a tolerance."""
    tensor, array = chosen(rng, files, lambda found: found.ndim == 0)
    if rng.random() < 0.5:  # one of those that constants rest on
        known = [part for part in files.model.graph.initializer if part.name.rpartition(".")[2] in ("lowest", *SCALARS)]
        tensor = known[rng.integers(len(known))]
        array = numpy_helper.to_array(tensor)
    factor = rng.choice([*_FACTORS, 0.0, -1.0, 1e-3, 1e3, 1e6])
    put(tensor, np.asarray(array * factor).astype(array.dtype) if rng.random() < 0.9 else array + array.dtype.type(1))


def index(rng: Generator, files: Files) -> None:
    """Which pixels windows see, and shapes."""
    tensor, array = chosen(rng, files, lambda found: found.dtype == np.int64 and found.ndim > 0)
    changed, kind = array.copy(), rng.integers(6)
    if kind == 0:
        changed = np.roll(changed, 1, int(rng.integers(changed.ndim)))
    elif kind == 1:
        changed.reshape(-1)[rng.integers(changed.size)] += rng.choice([-1, 1, 2, 100])
    elif kind == 2:
        changed = changed + rng.choice([-1, 1])
    elif kind == 3:
        changed = rng.permutation(changed)
    elif kind == 4:
        changed.reshape(-1)[rng.integers(changed.size)] = changed.reshape(-1)[rng.integers(changed.size)]
    else:
        changed = np.flip(changed, int(rng.integers(changed.ndim))).copy()
    put(tensor, changed)


NUMBERS = {
    "numbers: a bit": bit, "numbers: scaled": scaled, "numbers: negated": negated, "numbers: rows and columns": permuted,
    "numbers: transposed": transposed, "numbers: entries": entry, "numbers: zeros": zeros, "numbers: shape or type": shaped,
    "numbers: exchanged": exchanged, "numbers: options": option, "numbers: windows and shapes": index,
}  # fmt: skip
