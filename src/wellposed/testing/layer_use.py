"""How a layer must bear being used: threads, copies, optimisers, any leading shape, and input that is wrong."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor

import wellposed as wp
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.testing import tensors
from wellposed.testing.layer_hooks import LayerHooks


class LayerUse(LayerHooks):
    """What is left behind in a module, what is computed again, and which errors bad input gets."""

    def test_threads(self) -> None:
        layer = self.make_layer()
        x = [self.inputs() * k for k in range(1, 5)]
        expected = [layer(v).detach() for v in x]
        results: list[Tensor | None] = [None] * len(x)

        def work(k: int) -> None:
            for _ in range(5):
                value = layer(x[k])
                torch.autograd.grad(value.sum(), layer.injection.weight)
                results[k] = value.detach()

        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(x))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for found, value in zip(results, expected, strict=True):
            torch.testing.assert_close(found, value)

    def test_nothing_is_left_behind_in_the_module(self) -> None:
        layer = self.make_layer()
        before = {name: set(vars(module)) for name, module in layer.named_modules()}
        state = copy.deepcopy(layer.state_dict())
        layer(self.inputs()).sum().backward()
        layer.solve(self.inputs())
        assert before == {name: set(vars(module)) for name, module in layer.named_modules()}
        assert state.keys() == layer.state_dict().keys()
        for name, value in layer.state_dict().items():
            assert torch.equal(value, state[name])
        again = pickle.loads(pickle.dumps(layer))
        torch.testing.assert_close(again(self.inputs()), layer(self.inputs()))
        torch.testing.assert_close(copy.deepcopy(layer)(self.inputs()), layer(self.inputs()))

    def test_state_dict_round_trip(self) -> None:
        layer, other = self.make_layer(), self.make_layer()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.normal_()
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(self.inputs()), layer(self.inputs()))

    def test_nothing_is_factorised_again_in_backward_or_while_weights_stand_still(self) -> None:
        layer = self.make_layer()
        cache = factorisation_cache(layer.constraint)
        x = self.inputs()
        value = layer(x)
        after_forward = cache.factorisations
        value.sum().backward()
        assert cache.factorisations == after_forward
        layer.eval()
        with torch.no_grad():
            layer(x)
            layer(2 * x)
        assert cache.factorisations == after_forward
        with torch.no_grad():
            for parameter in layer.constraint.parameters():
                parameter.data.add_(0.01)
            layer(x)
        assert cache.factorisations == after_forward + (after_forward > 0)  # some default solvers need none

    def test_training_with_any_optimiser(self) -> None:
        for optimiser in (torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop):
            layer = self.make_layer(torch.float32)
            x = self.inputs(16, torch.float32)
            target = tensors.randn(16, 6, seed=0, dtype=x.dtype).abs()
            step = optimiser(layer.parameters(), lr=1e-2)
            losses = []
            for _ in range(20):
                loss = (layer(x) - target).square().mean()
                step.zero_grad()
                loss.backward()
                step.step()
                losses.append(float(loss.detach()))
            assert losses[-1] < losses[0]

    def test_any_leading_shape(self) -> None:
        layer = self.make_layer()
        x = self.inputs(6)
        rows = layer(x)
        torch.testing.assert_close(layer(x.reshape(2, 3, 7)), rows.reshape(2, 3, 6))
        torch.testing.assert_close(layer(x[0]), rows[0])
        solution = layer.solve(x.reshape(2, 3, 7))
        assert solution.error_bound.shape == solution.steps.shape == solution.converged.shape == (2, 3)

    def test_bad_input(self) -> None:
        layer = self.make_layer()
        with pytest.raises(wp.InputError, match=r"x: has shape \(3, 5\).*takes 7 features"):
            layer(tensors.zeros(3, 5, dtype=torch.float64))
        with pytest.raises(wp.InputError, match="dtype torch.float32"):
            layer(tensors.zeros(3, 7, dtype=torch.float32))
        for bad in (torch.nan, torch.inf, -torch.inf):
            x = self.inputs()
            x[1, 2] = bad
            with pytest.raises(wp.InputError, match="x: has NaN or infinite"):
                layer(x)
        with pytest.raises(wp.OptionError, match="Did you mean 'max_steps'"):
            self.make_layer(max_stpes=3)
        with pytest.raises(wp.InputError, match="Did you mean 'tanh'"):
            self.make_layer(activation="tahn")
        if self.make_layer().constraint.needs_monotone:
            with pytest.raises(wp.InputError, match="slopes within"):
                self.make_layer(activation="gelu")
        with pytest.raises(wp.InputError, match="rtol=-1"):
            self.make_layer(rtol=-1.0)
        with pytest.raises(wp.InputError, match="on_failure='ignore'"):
            self.make_layer(on_failure="ignore")

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_bad_weights(self, bad: float) -> None:
        for name, _ in self.make_layer().named_parameters():
            layer = self.make_layer()
            with torch.no_grad():
                dict(layer.named_parameters())[name].view(-1)[0] = bad
            with pytest.raises(wp.InputError, match=f"{name}: the weights have NaN or infinite"):
                layer(self.inputs())
