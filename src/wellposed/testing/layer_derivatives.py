"""Which derivatives a layer must have: of every order, in both modes, under `torch.func`, and whatever ran in between."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.testing import tensors
from wellposed.testing.layer_hooks import LayerHooks


class LayerDerivatives(LayerHooks):
    """Derivatives against finite differences, and the ways to ask for them against each other."""

    def test_gradients_of_first_and_second_order(self) -> None:
        layer = self.exact_layer()
        function = self.as_function(layer)
        arguments = (self.inputs(2).requires_grad_(), *layer.parameters())
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)  # along random directions

    def test_forward_mode(self) -> None:
        layer = self.exact_layer()
        arguments = (self.inputs(2).requires_grad_(), *layer.parameters())
        function = self.as_function(layer)
        # Along random directions: every entry is compared with that of reverse mode, which differences confirm above.
        assert torch.autograd.gradcheck(
            function, arguments, check_forward_ad=True, check_backward_ad=False, fast_mode=True
        )
        every = tuple(range(len(arguments)))
        forward = torch.func.jacfwd(function, every)(*arguments)
        backward = torch.func.jacrev(function, every)(*arguments)
        for own, other in zip(forward, backward, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)

    def test_functional_transforms_agree_with_autograd(self) -> None:
        layer = self.exact_layer()
        x = self.inputs(3)
        jacobian = torch.func.jacrev(layer)(x)
        forward = torch.func.jacfwd(layer)(x)
        expected = torch.autograd.functional.jacobian(layer, x)
        torch.testing.assert_close(jacobian, expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(forward, expected, rtol=1e-9, atol=1e-10)
        batched = torch.func.vmap(layer)(x)
        torch.testing.assert_close(batched, layer(x), rtol=1e-10, atol=1e-11)
        each = torch.func.vmap(torch.func.jacrev(layer))(x)
        rows = tensors.arange(len(x))
        torch.testing.assert_close(each, expected[rows, :, rows], rtol=1e-9, atol=1e-10)

        def energy(v: Tensor) -> Tensor:
            return layer(v).square().sum()

        hessian = torch.func.hessian(energy)(x[0])
        torch.testing.assert_close(hessian, torch.autograd.functional.hessian(energy, x[0]), rtol=1e-7, atol=1e-8)
        gradient = torch.func.grad(energy)(x)
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(energy(leaf), leaf)[0], rtol=1e-9, atol=1e-10)

    def test_vmap_over_weights(self) -> None:
        layer = self.exact_layer()
        x = self.inputs(2)
        parameters = [parameter.detach() for parameter in layer.parameters()]
        stacked = [torch.stack([p, 0.5 * p]) for p in parameters]
        function = self.as_function(layer)
        both = torch.func.vmap(lambda *p: function(x, *p))(*stacked)
        for index, value in enumerate(both):
            torch.testing.assert_close(value, function(x, *(s[index] for s in stacked)), rtol=1e-9, atol=1e-10)

    def test_eval_mode_has_gradients_and_no_grad_has_none(self) -> None:
        layer = self.make_layer().eval()
        x = self.inputs().requires_grad_()
        assert torch.autograd.grad(layer(x).sum(), x)[0].abs().sum() > 0
        with torch.no_grad():
            assert not layer(x).requires_grad

    def test_one_module_used_twice_before_backward(self) -> None:
        layer = self.exact_layer()
        x, y = self.inputs(), 2.0 * self.inputs()
        (layer(x).sum() + layer(y).square().sum()).backward()
        trained = [p for p in layer.parameters() if p.requires_grad]
        together = [p.grad.clone() for p in trained]
        layer.zero_grad()
        layer(x).sum().backward()
        layer(y).square().sum().backward()
        for found, expected in zip(together, trained, strict=True):
            torch.testing.assert_close(found, expected.grad, rtol=1e-9, atol=1e-10)

    def test_backward_after_another_forward_with_other_weights(self) -> None:
        layer = self.exact_layer()
        x = self.inputs().requires_grad_()
        expected = torch.autograd.grad(layer(x).sum(), x)[0]
        value = layer(x).sum()
        for scale in (0.5, 1.5, 2.0, 3.0, 4.0):  # more than the factorisations that are kept
            with torch.no_grad():
                self.as_function(layer)(x, *(scale * parameter for parameter in layer.parameters()))
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], expected, rtol=1e-10, atol=1e-11)
