"""What a device can do at most: measured memory bandwidth and throughput of matrix products, and what these allow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_NUMBER = 4  # bytes of a float32


def seconds_of(function: Callable[[], object], device: torch.device, *, least: int = 5, seconds: float = 0.3) -> float:
    """Median wall seconds of one call, with all that it started on the device.

    Args:
        function: what is timed; called once before.
        device: that it runs on.
        least: number of calls at least.
        seconds: to spend.
    """

    def timed() -> float:
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed()
    found = [timed()]
    while len(found) < least or (sum(found) < seconds and len(found) < 1000):
        found.append(timed())
    return statistics.median(found)


@dataclass(frozen=True)
class Roofline:
    """The limits of a device, in float32.

    Attributes:
        bandwidth: bytes a second, those read and those written.
        throughput: floating-point operations of matrix products a second, at torch's own precision for float32.
    """

    bandwidth: float
    throughput: float

    @classmethod
    def measured(cls, device: torch.device, *, tiny: bool) -> Roofline:
        """The limits as a copy and a product of large matrices show them.

        Args:
            device: to be measured.
            tiny: small sizes, which show nothing.
        """
        numbers, size = (1 << 16, 64) if tiny else (1 << 28, 8192)
        source = torch.zeros(numbers, device=device)
        target = torch.empty_like(source)
        copied = seconds_of(lambda: target.copy_(source), device)
        left, right = torch.randn(2, size, size, device=device)
        product = torch.empty_like(left)
        multiplied = seconds_of(lambda: torch.mm(left, right, out=product), device)
        return cls(2 * _NUMBER * numbers / copied, 2 * size**3 / multiplied)

    def least_seconds(self, numbers: int, operations: int) -> float:
        """The least time for moving so many float32 numbers and so many operations of matrix products.

        Args:
            numbers: that must be read or written.
            operations: additions and multiplications.
        """
        return max(_NUMBER * numbers / self.bandwidth, operations / self.throughput)
