"""Arrays of complex numbers whose real and imaginary parts are rational, for what numpy's functions do to those of floats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .rationals import Rationals


class ComplexRationals(NDArrayOperatorsMixin):
    """An array of complex numbers.

    Attributes:
        real: their real parts.
        imag: their imaginary parts.
    """

    def __init__(self, real: Rationals, imag: Rationals) -> None:
        self.real, self.imag = real, imag
        self.shape, self.dtype, self.ndim = real.shape, real.dtype, real.ndim

    @classmethod
    def of(cls, values: Any) -> ComplexRationals:
        """Numbers as exactly these."""
        if isinstance(values, ComplexRationals):
            return values
        if isinstance(values, Rationals):
            return cls(values, Rationals.of(np.zeros(values.shape)))
        return cls(Rationals.of(np.real(values)), Rationals.of(np.imag(values)))

    def both(self, function: Callable[[Any], Any]) -> ComplexRationals:
        """What a linear function makes of the parts."""
        return ComplexRationals(function(self.real), function(self.imag))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        given = [ComplexRationals.of(part) for part in inputs]
        if ufunc is np.absolute:
            return np.sqrt(self.real * self.real + self.imag * self.imag)
        if ufunc is np.divide and not given[1].imag.any():
            return given[0].both(lambda part: part / given[1].real)
        if ufunc in (np.add, np.subtract):
            return ComplexRationals(ufunc(given[0].real, given[1].real), ufunc(given[0].imag, given[1].imag))
        if ufunc in (np.multiply, np.matmul):
            first, second = given
            real = ufunc(first.real, second.real) - ufunc(first.imag, second.imag)
            return ComplexRationals(real, ufunc(first.real, second.imag) + ufunc(first.imag, second.real))
        return NotImplemented

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function not in (np.roll, np.flip, np.stack, np.where, np.concatenate):
            return NotImplemented
        real, imag = (function(*_parts(arguments, name), **options) for name in ("real", "imag"))
        return ComplexRationals(real, imag)

    def __getitem__(self, place: Any) -> ComplexRationals:
        return self.both(lambda part: part[place])

    def __iter__(self) -> Iterator[ComplexRationals]:
        return (self[place] for place in range(self.shape[0]))

    def __len__(self) -> int:
        return self.shape[0]

    def conj(self) -> ComplexRationals:
        """Their conjugates."""
        return ComplexRationals(self.real, -self.imag)

    def swapaxes(self, first: int, second: int) -> ComplexRationals:
        """Two axes interchanged."""
        return self.both(lambda part: part.swapaxes(first, second))

    def reshape(self, *shape: int) -> ComplexRationals:
        """The same numbers in another shape."""
        return self.both(lambda part: part.reshape(*shape))

    def transpose(self, *axes: int) -> ComplexRationals:
        """The axes in another order."""
        return self.both(lambda part: part.transpose(*axes))

    def nearest(self) -> Any:
        """Floats near these."""
        return self.real.nearest() + 1j * self.imag.nearest()

    def any(self) -> bool:
        """Whether one is not zero."""
        return bool((self.real != 0.0).any() or (self.imag != 0.0).any())


def _parts(arguments: Any, name: str) -> Any:
    """Arguments with the parts of complex arrays in their places."""
    if isinstance(arguments, list | tuple):
        return type(arguments)(_parts(part, name) for part in arguments)
    return getattr(arguments, name) if isinstance(arguments, ComplexRationals) else arguments
