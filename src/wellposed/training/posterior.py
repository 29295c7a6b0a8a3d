"""Gaussian distributions over the weights of a network, trained to a small risk certificate."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wellposed.generalisation.risk import gaussian_kl, gaussian_kl_upper_bound
from wellposed.implicit.parameters import call_with, parameter_places
from wellposed.numerics.outward import next_up
from wellposed.training.batches import Stretches
from wellposed.training.buffers import FrozenBuffers
from wellposed.training.stepping import SteppingModule


class Posterior(nn.Module):
    """Independent Gaussians around the weights of a network; every draw of a well-posed layer's free parameters is well posed.

    Args:
        model: its parameters are the prior's means and its buffers part of the prior: neither is changed. It is put into
            evaluation mode, in which it makes every prediction.
        scale: the prior's standard deviations, as a fraction of the root-mean-square of each parameter tensor.
    """

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self._model = [model]  # not a part of this module: its own parameters are constants
        self._places, self._frozen = parameter_places(model), FrozenBuffers(model.eval())
        named = {name.replace(".", "/"): parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.mean = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in named.items()})
        spread = {
            name: torch.full_like(value, math.log(scale * max(float(value.square().mean().sqrt()), 1e-3)))
            for name, value in named.items()
        }
        self.log_std = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in spread.items()})
        for name, value in named.items():
            self.register_buffer(f"prior_mean/{name}", value)
            self.register_buffer(f"prior_log_std/{name}", spread[name])

    def kl(self) -> Tensor:
        """KL from the prior, nats, with its graph."""
        return torch.stack([gaussian_kl(*parts) for parts in self._distributions()]).sum()

    def kl_upper_bound(self) -> float:
        """At least the KL from the prior, nats, rounding included."""
        total = 0.0
        for parts in self._distributions():
            total = next_up(total + gaussian_kl_upper_bound(*parts))
        return total

    def _distributions(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Means and log deviations of the posterior and of the prior, float64, for each parameter of the network."""
        for name, mean in self.mean.items():
            prior = (self.get_buffer(f"prior_{part}/{name}") for part in ("mean", "log_std"))
            mine, spread, centre, width = (part.double() for part in (mean, self.log_std[name], *prior))
            yield mine, spread, centre, width

    def draw(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Weights by name, with the graph to means and standard deviations."""
        found = {}
        for name, mean in self.mean.items():
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
            found[name.replace("/", ".")] = mean + torch.exp(self.log_std[name]) * noise
        return found

    def check_buffers(self) -> None:
        """Refuse to go on if the network's buffers are others than when the prior was chosen.

        Raises:
            CertificateError: a buffer changed.
        """
        self._frozen.check(self._model[0])

    def logits(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        """The network with these weights, in evaluation mode."""
        self._model[0].eval()
        return call_with(self._model[0], self._places, weights, (x,))


class PosteriorModule(SteppingModule):
    """Minimises the bound (√(L + c) + √c)², c = (KL + ln(2√n/δ))/2n (Thiemann et al. 2017; Rivasplata et al. 2019).

    L is the cross-entropy in bits, which is nowhere below the error; the certificate itself is about the error.

    Args:
        posterior: what is trained.
        samples: n of the bound.
        delta: its probability of failure.
        learning_rate: of Adam.
        batches: of an epoch.
        epochs: of the whole training.
    """

    def __init__(
        self, posterior: Posterior, samples: int, delta: float, learning_rate: float, batches: Stretches, epochs: int
    ) -> None:
        super().__init__(batches, epochs)
        self.posterior, self._samples, self._delta, self._learning_rate = posterior, samples, delta, learning_rate

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The bound with one draw of the weights and the loss on one batch."""
        inputs, labels = batch
        logits = self.posterior.logits(self.posterior.draw(), inputs)
        loss = nn.functional.cross_entropy(logits, labels) / math.log(2.0)
        complexity = (self.posterior.kl() + math.log(2.0 * self._samples**0.5 / self._delta)) / (2.0 * self._samples)
        return ((loss + complexity).sqrt() + complexity.sqrt()).square()

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.posterior.parameters(), lr=self._learning_rate)
