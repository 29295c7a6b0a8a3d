"""Circular convolutions as products of real matrices: the discrete Fourier transform of real images, without complex numbers.

Rows and columns are transformed by products with small matrices of orthogonal rows, which is quicker than an FFT for images
of up to about 32 × 32 pixels, and leaves real and imaginary parts where batched products want them. Transforms are not
normalised: inverse to each other but for numbers that convolutions are multiplied with, so that of images whose sides are
powers of two only roots of unity are rounded. The half spectrum of a real image has frequencies of three kinds: real ones;
pairs of conjugate ones within the edge columns 0 and width/2, of which one is kept; and those of the inner columns. Images
have the shape (width, height, channels, batch) here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.numerics.roots_of_unity import roots_of_unity


def real_blocks(transfer: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """A circular convolution as real matrices, one for every frequency of the three kinds, with their graph.

    They contain 1/(height·width), and 2 where one frequency stands for two.

    Args:
        transfer: shape (height·(width//2 + 1), out, in, 2), as of `wellposed.operators.fourier`; conjugate frequencies of the
            edge columns need be so but for rounding: their mean acts, as in ``torch.fft.irfft2``.
        size: height and width.

    Returns:
        Shapes (real frequencies, out, in), (edge frequencies, 2·out, 2·in) and (inner frequencies, 2·out, 2·in).
    """
    height, width = size
    columns = (transfer * (2.0 / (height * width))).unflatten(0, (height, width // 2 + 1)).transpose(0, 1)
    inner = columns[1 : (width + 1) // 2]
    edges = columns if width <= 2 else torch.stack([columns[0], columns[-1]]) if width % 2 == 0 else columns[:1]
    mirrored = edges.flip(1).roll(1, 1)
    real, imaginary = (edges + mirrored)[..., 0] / 2, (edges - mirrored)[..., 1] / 2
    pairs = (height - 1) // 2
    alone = real[:, :1] if height % 2 else torch.stack([real[:, 0], real[:, height // 2]], 1)
    kept = slice(1, 1 + pairs)
    return (
        alone.flatten(0, 1) / 2,
        _blocks(real[:, kept].flatten(0, 1), imaginary[:, kept].flatten(0, 1)),
        _blocks(*inner.flatten(0, 1).unbind(-1)),
    )


def _blocks(real: Tensor, imaginary: Tensor) -> Tensor:
    return torch.cat([torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1)


@dataclass(frozen=True, eq=False)
class RealTransforms:
    """The matrices of the transforms of images of one size.

    Attributes:
        size: height and width.
        across: of a real row to its half spectrum, shape (width, width).
        down: of a real column to its half spectrum, shape (height, height).
        down_complex: of a complex column, real before imaginary parts, to its spectrum, shape (2·height, 2·height).
    """

    size: tuple[int, int]
    across: Tensor
    down: Tensor
    down_complex: Tensor

    @classmethod
    def of(cls, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> RealTransforms:
        """Those in a precision, on a device."""
        tables = (_half(size[1]), _half(size[0]), _full(size[0]))
        return cls(size, *(table.to(device, dtype) for table in tables))

    @property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three, for maps that must take every tensor as an argument."""
        return self.across, self.down, self.down_complex

    def convolved(self, blocks: Sequence[Tensor], image: Tensor) -> Tensor:
        """The circular convolution with these `real_blocks`.

        Args:
            blocks: of the convolution.
            image: shape (width, height, in, batch).

        Returns:
            Shape (width, height, out, batch).
        """
        (height, width), (channels, batch) = self.size, image.shape[2:]
        edges, alone, pairs, inner = 2 - width % 2, 2 - height % 2, (height - 1) // 2, (width - 1) // 2
        edges, alone = min(edges, width), min(alone, height)
        rows = self.across @ image.reshape(width, height * channels * batch)
        outer, within = rows.split([edges, width - edges])
        outer = torch.matmul(self.down, outer.reshape(edges, height, channels * batch))
        within = torch.matmul(self.down_complex, within.reshape(inner, 2 * height, channels * batch))
        single, paired = outer.split([alone, height - alone], 1)
        single = torch.bmm(blocks[0], single.reshape(edges * alone, channels, batch))
        paired = torch.bmm(blocks[1], paired.reshape(edges * pairs, 2 * channels, batch))
        within = torch.bmm(blocks[2], within.reshape(inner * height, 2 * channels, batch))
        outputs = single.shape[1]
        wide = outputs * batch
        outer = torch.cat([single.reshape(edges, alone, wide), paired.reshape(edges, 2 * pairs, wide)], 1)
        outer = torch.matmul(self.down.t(), outer)
        within = torch.matmul(self.down_complex.t(), within.reshape(inner, 2 * height, wide))
        rows = torch.cat([outer.reshape(edges, height * wide), within.reshape(2 * inner, height * wide)])
        return (self.across.t() @ rows).reshape(width, height, outputs, batch)


def real_rounding(size: tuple[int, int]) -> float:
    """Error of one of the transforms in the Euclidean norm, in units of the last place relative to the norm of its value.

    A product with a multiple of an orthogonal matrix of n rows, or with one of orthogonal rows of various norms, costs at most
    (n + 2)·√n units of what it would be of norm one: the matrix of absolute values has a norm of at most √n (Higham 2002,
    section 3.5).
    """
    return sum((terms + 2) * float(terms) ** 0.5 for terms in (size[1], 2 * size[0]))


def block_rounding(outputs: int, inputs: int) -> float:
    """As `real_rounding`, of products with `real_blocks`, whose entries are rounded up to four times besides."""
    return (2 * inputs + 4) * float(2 * min(outputs, inputs)) ** 0.5


def _turns(count: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of 2πkj/n, shape (n, n), float64."""
    cosines, sines = (torch.tensor(table, dtype=torch.float64, device="cpu") for table in roots_of_unity(count))
    numbers = torch.arange(count, device="cpu")
    places = numbers[:, None] * numbers % count
    return cosines[places], sines[places]


def _half(count: int) -> Tensor:
    """The matrix to frequency zero, to n/2 for even n, and to real and imaginary parts of 1, 2, …, (n − 1)/2."""
    cosine, sine = _turns(count)
    pairs = torch.stack([cosine, -sine], 1)[1 : (count + 1) // 2].flatten(0, 1)
    alone = cosine[:1] if count % 2 else cosine[[0, count // 2]]
    return torch.cat([alone, pairs])


def _full(count: int) -> Tensor:
    """The matrix from n real and n imaginary parts to real and imaginary parts of frequencies 0, 1, …, n − 1."""
    cosine, sine = _turns(count)
    real, imaginary = torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)
    return torch.stack([real, imaginary], 1).flatten(0, 1)
