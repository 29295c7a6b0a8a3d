"""The original monotone DEQ algorithm, as its authors describe it, written from the description as a rival to time.

Peaceman–Rachford on the batch with two tracked states, the inverse formed anew in every pass, outside of ``no_grad``, and
used again by the adjoint iteration; the four products of W kept apart in the final pass; a batch-global relative change as
the stopping rule, for which both norms are taken to the host at every iteration; a mask assignment in the adjoint iteration.
Tuples of tiers, statistics and clocks of the original are left out, in its favour.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class OriginalMonDEQ(nn.Module):
    """Dense layer with ReLU; ``alpha``, ``tol`` and ``max_iter`` as in the original training scripts."""

    def __init__(self, in_features: int, width: int, m: float, alpha: float, tol: float, max_iter: int = 300) -> None:
        super().__init__()
        self.U = nn.Linear(in_features, width)
        self.A = nn.Linear(width, width, bias=False)
        self.B = nn.Linear(width, width, bias=False)
        self.m, self.alpha, self.tol, self.max_iter = m, alpha, tol, max_iter
        self.iterations = (0, 0)

    def multiply(self, z: Tensor, *, transposed: bool = False) -> Tensor:
        """The four products of W, or of its transpose."""
        ata = self.A(z) @ self.A.weight
        skew = z @ self.B.weight - self.B(z) if transposed else self.B(z) - z @ self.B.weight
        return (1 - self.m) * z - ata + skew

    def resolvent(self) -> Tensor:
        """The inverse, formed anew in every pass."""
        eye = torch.eye(self.A.weight.shape[0], dtype=self.A.weight.dtype, device=self.A.weight.device)
        a, b = self.A.weight, self.B.weight
        w = (1 - self.m) * eye - a.t() @ a + b - b.t()
        return torch.inverse((1 + self.alpha) * eye - self.alpha * w)

    @staticmethod
    def resolve(v: Tensor, z: Tensor) -> Tensor:
        """The resolvent, given transposed or not, on rows."""
        return z @ v

    @staticmethod
    def activate(z: Tensor) -> Tensor:
        """ReLU."""
        return torch.relu(z)

    def forward(self, x: Tensor) -> Tensor:
        """Peaceman–Rachford, and one application of the layer with its graph."""
        v = self.resolvent()
        with torch.no_grad():
            z, count = _iterated(self, v.t(), self.U(x))
        self.iterations = (count, 0)
        output = torch.relu(self.multiply(z) + self.U(x))
        return _Adjoint.apply(output, self, v.detach(), (output > 0).to(output.dtype), count)


def _iterated(layer: Any, v: Tensor, bias: Tensor) -> tuple[Tensor, int]:
    """The equilibrium by Peaceman–Rachford, with the stopping rule of the original, and how many steps it took."""
    z = u = torch.zeros_like(bias)
    count = 0
    while count < layer.max_iter:
        count += 1
        u_half = 2 * z - u
        z_half = layer.resolve(v, u_half + layer.alpha * bias)
        u = 2 * z_half - u_half
        new = layer.activate(u)
        change = _relative_change(new, z)
        z = new
        if change <= layer.tol:
            break
    return z, count


def _relative_change(new: Tensor, old: Tensor) -> float:
    """The stopping quantity of the original: over the whole batch, both norms taken to the host, as there."""
    return (new - old).norm().item() / (1e-6 + new.norm().item())


class _Adjoint(torch.autograd.Function):
    """The adjoint iteration of both layers, with the mask assignment of the original."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, layer: Any, v: Tensor, j: Tensor, count: int) -> Tensor:
        ctx.layer, ctx.v, ctx.j, ctx.count = layer, v, j, count
        return output  # not a copy: the original gives back its argument

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,), layer, j = gradients, ctx.layer, ctx.j
        alpha, infinite, d = layer.alpha, j == 0, (1 - j) / j
        z = u = torch.zeros_like(g)
        jg = j * g
        count = 0
        while count < layer.max_iter:
            count += 1
            u_half = 2 * z - u
            z_half = layer.resolve(ctx.v, u_half)
            u = 2 * z_half - u_half
            new = (u + alpha * (1 + d) * jg) / (1 + alpha * d)
            new[infinite] = jg[infinite]
            change = _relative_change(new, z)
            z = new
            if change <= layer.tol:
                break
        layer.iterations = (ctx.count, count)
        with torch.no_grad():
            total = g + layer.multiply(z, transposed=True)
        return total, None, None, None, None


class OriginalConvMonDEQ(nn.Module):
    """Single convolution: 3 × 3 circular kernels on the image with a border that is kept zero, the resolvent by FFT.

    The resolvent is formed on the full grid in the real 2C × 2C embedding of complex matrices, and applied to the full spectrum.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        image: tuple[int, int],
        m: float,
        alpha: float,
        tol: float,
        max_iter: int = 300,
    ) -> None:
        super().__init__()
        self.U = nn.Conv2d(channels_in, channels, 3)
        self.A0 = nn.Parameter(torch.empty(channels, channels, 3, 3, device="cpu").normal_())
        self.B0 = nn.Parameter(torch.empty(channels, channels, 3, 3, device="cpu").normal_())
        self.g, self.h = nn.Parameter(torch.ones((), device="cpu")), nn.Parameter(torch.ones((), device="cpu"))
        self.image = (image[0] + 2, image[1] + 2)
        self.m, self.alpha, self.tol, self.max_iter = m, alpha, tol, max_iter
        self.iterations = (0, 0)

    def kernels(self) -> tuple[Tensor, Tensor]:
        """The kernels of A and B, normalised."""
        return self.A0 / self.A0.view(-1).norm(), self.h * self.B0 / self.B0.view(-1).norm()

    def injected(self, x: Tensor) -> Tensor:
        """Ux + b on the grid with its border."""
        return nn.functional.conv2d(
            nn.functional.pad(nn.functional.pad(x, (1, 1, 1, 1)), (1, 1, 1, 1), mode="circular"),
            self.U.weight,
            self.U.bias,
        )

    @staticmethod
    def _forward(kernel: Tensor, z: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.pad(z, (1, 1, 1, 1), mode="circular"), kernel)

    @staticmethod
    def _adjoint(kernel: Tensor, z: Tensor) -> Tensor:
        wide = nn.functional.conv_transpose2d(nn.functional.pad(z, (1, 1, 1, 1), mode="circular"), kernel)
        return wide[:, :, 2:-2, 2:-2]

    def multiply(self, z: Tensor, *, transposed: bool = False) -> Tensor:
        """W or its transpose, by four convolutions."""
        a, b = self.kernels()
        skew = self._forward(b, z) - self._adjoint(b, z)
        symmetric = (1 - self.m) * z - self.g * self._adjoint(a, self._forward(a, z))
        return symmetric - skew if transposed else symmetric + skew

    def resolvent(self) -> Tensor:
        """(pixels, 2C, 2C)."""

        def transfer(kernel: Tensor) -> Tensor:
            grid = kernel.new_zeros(*kernel.shape[:2], *self.image)
            grid[:, :, :3, :3] = kernel
            return torch.fft.fft2(torch.roll(grid, (-1, -1), (2, 3))).conj().permute(2, 3, 0, 1).flatten(0, 1)

        a, b = (transfer(kernel) for kernel in self.kernels())
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        w = (1 - self.m) * eye - self.g * a.mH @ a + b - b.mH
        inner = (1 + self.alpha) * eye - self.alpha * w
        real, imaginary = inner.real, inner.imag
        return torch.inverse(torch.cat([torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1))

    def resolve(self, v: Tensor, z: Tensor) -> Tensor:
        """The resolvent on the full spectrum, in the real embedding."""
        spectrum = torch.fft.fft2(z).flatten(2).permute(2, 1, 0)
        both = torch.bmm(v, torch.cat([spectrum.real, spectrum.imag], 1))
        half = both.shape[1] // 2
        found = torch.complex(both[:, :half], both[:, half:]).permute(2, 1, 0)
        return torch.fft.ifft2(found.reshape(z.shape)).real

    def activate(self, z: Tensor) -> Tensor:
        """ReLU inside of the border."""
        value = torch.relu(z).clone()
        value[:, :, 0] = value[:, :, -1] = 0
        value[:, :, :, 0] = value[:, :, :, -1] = 0
        return value

    def forward(self, x: Tensor) -> Tensor:
        """Peaceman–Rachford, and one application of the layer with its graph."""
        v = self.resolvent()
        with torch.no_grad():
            z, count = _iterated(self, v, self.injected(x))
        self.iterations = (count, 0)
        output = self.activate(self.multiply(z) + self.injected(x))
        return _Adjoint.apply(output, self, v.detach().mT, (output > 0).to(output.dtype), count)
