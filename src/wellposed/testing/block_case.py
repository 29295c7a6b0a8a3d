"""What every kind of block of a network must do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.checker import check
from wellposed.testing.slopes import steepest
from wellposed.testing.tensors import generator


class BlockCase:
    """Every check of a module that networks have as a block; inherit, and give ``make_block`` and ``inputs``.

    Attributes:
        norms: in which its Lipschitz constant can be proved.
        largest_error: the bound on its rounding in float32, at most, relative to the largest output.
        is_filed: whether it has a form in deployed files, about which `wellposed verify` proves constants again.

    Example:
        A block that the library knows; one's own class is admitted by ``@wp.register`` first.

        >>> import torch
        >>> from wellposed.testing import BlockCase, randn
        >>> class TestLinear(BlockCase):
        ...     def make_block(self, dtype=torch.float64):
        ...         torch.manual_seed(0)
        ...         return torch.nn.Linear(5, 4, dtype=dtype)
        ...     def inputs(self, count=8, dtype=torch.float64):
        ...         return randn(count, 5, seed=1, dtype=dtype)
        >>> TestLinear().test_rounding_bound_holds_in_float32()
    """

    norms: tuple[str, ...] = ("2",)
    largest_error = 1e-4
    is_filed = True

    def make_block(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The module in eval mode, the same numbers at every call."""
        raise NotImplementedError

    def inputs(self, count: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
        """Inputs of it, shape (count, ...), the same at every call."""
        raise NotImplementedError

    def network_of(self, block: nn.Module) -> wp.Network:
        """The network that a module is, in a model of its own."""
        return wp.materialise(nn.Sequential(block), tuple(self.inputs().shape[1:]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_network_computes_what_the_module_computes(self, dtype: torch.dtype) -> None:
        block = self.make_block(dtype)
        network = self.network_of(block)
        x = self.inputs(dtype=network.dtype)  # a block without numbers runs in float32
        with torch.no_grad():
            torch.testing.assert_close(network(x), block(x))

    def test_rounding_bound_holds_in_float32(self) -> None:
        network, x = self.network_of(self.make_block(torch.float32)), self.inputs(40, torch.float32)
        found, exact = network.bounded(x), network.exact(x.double().cpu()).to(x.device)
        error = (found.logits.double() - exact).flatten(1).norm(dim=1)
        assert (error <= found.error).all()
        assert (found.error <= self.largest_error * (1.0 + exact.flatten(1).norm(dim=1).max())).all()

    def test_constant_is_never_exceeded(self) -> None:
        block, x = self.make_block(), self.inputs()
        for norm in self.norms:
            assert steepest(block, x, norm) <= wp.certify(self.network_of(block), norm=norm).lipschitz * (1.0 + 1e-9)

    def test_interval_holds_sampled_values(self) -> None:
        x = self.inputs().detach().double().cpu()
        lower, upper = torch.minimum(x[:1], x[1:2]), torch.maximum(x[:1], x[1:2])
        network = self.network_of(self.make_block()).exact
        try:
            least, largest = network.blocks[0].interval(lower, upper)
        except wp.CertificateError:
            pytest.skip("no interval is known of this kind of block")
        share = torch.rand(1000, *x.shape[1:], generator=generator(), dtype=torch.float64, device="cpu")
        share[::2] = share[::2].round()
        values = network((lower + share * (upper - lower)).clamp(lower, upper))
        room = 1e-7 * (1.0 + values.abs())  # of the tolerance of a solve
        assert ((values >= least - room) & (values <= largest + room)).all()

    def test_digest_covers_every_number(self) -> None:
        block = self.make_block()
        digest = self.network_of(block).digest
        assert digest == self.network_of(self.make_block()).digest
        for tensor in (*block.parameters(), *block.buffers()):
            if tensor.is_floating_point() and tensor.numel():
                kept = tensor.detach().clone()
                tensor.data.view(-1)[0] += 0.125
                with contextlib.suppress(wp.WellposedError):  # a number that its theorem does not allow
                    assert self.network_of(block).digest != digest
                tensor.data.copy_(kept)
        assert self.network_of(block).digest == digest

    def test_network_keeps_its_numbers(self) -> None:
        block = self.make_block()
        network = self.network_of(block)
        x = self.inputs(dtype=network.dtype)
        before = network(x)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(0.5)
        assert torch.equal(network(x), before)

    def test_other_forwards_are_followed_or_refused(self) -> None:
        original = self.make_block().forward
        replaced, inherited = self.make_block(), self.make_block()
        replaced.forward = lambda x: 2.0 * original(x)
        inherited.__class__ = type("Doubled", (type(inherited),), {"forward": lambda block, x: 2.0 * original(x)})
        for module in (replaced, inherited):
            with contextlib.suppress(wp.CertificateError):
                network = self.network_of(module)
                x = self.inputs(dtype=network.dtype)
                torch.testing.assert_close(network(x), module(x))

    def test_certificate_is_proved_again_by_the_checker(self, tmp_path: Path) -> None:
        if not self.is_filed:
            pytest.skip("this kind of block has no form in deployed files")
        network = wp.export(self.network_of(self.make_block(torch.float32)), tmp_path / "model.onnx")
        certificate = wp.certify(network)
        assert certificate.check()
        wp.certify_file(certificate, tmp_path / "model.onnx", tmp_path / "c.json")
        assert check(tmp_path / "c.json", tmp_path / "model.onnx")
