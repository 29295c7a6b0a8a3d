"""Networks whose deployed files are attacked: small ones of all kinds that the checker proves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.deployment import export
from wellposed.falsification.deployed.files import MODEL, Files
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum


class Branched(nn.Module):
    """A sum and a difference of branches, one of them with an equilibrium."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 5), wp.MonDEQ(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 6) to (batch, 3)."""
        v = torch.relu(self.first(x))
        found: Tensor = self.third(v - self.second(x) + v)
        return found


@dataclass(frozen=True)
class Subject:
    """A network whose files are attacked.

    Attributes:
        model: makes it.
        shape: of one input; None for networks on graphs.
        norms: of the certificates.
    """

    model: Callable[[], nn.Module]
    shape: tuple[int, ...] | None = (6,)
    norms: tuple[str, ...] = ("2", "inf", "1")

    def files(self, norm: str, folder: Path) -> Files:
        """Honest files, with a lower bound for the first of the norms.

        Args:
            norm: of the certificate.
            folder: where they are written.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = export(self.model().eval(), folder / MODEL, input_shape=self.shape)
            given = norm == self.norms[0] and self.shape is not None
            inputs = torch.randn(4, *(self.shape or ()), device="cpu") if given else None
        return Files.of(wp.certify(network, norm=norm, inputs=inputs), folder)


def _deep() -> nn.Module:
    first = [wp.Sandwich(6, 7), wp.SLL(7, 9), wp.Residual(7, 5), nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Tanh()]
    return nn.Sequential(*first, wp.MonDEQ(6, 5), nn.ReLU(), nn.Linear(5, 3))


def _image() -> nn.Module:
    first = [nn.Conv2d(1, 4, 3, padding=1), wp.GroupSort(), nn.AvgPool2d(2), nn.MaxPool2d(2, 1)]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(16, 3))


def _normalised() -> nn.Module:
    return nn.Sequential(wp.Normalize((0.1, 0.2), (0.3, 0.4)), nn.Flatten(), wp.MonDEQ(8, 4), nn.Linear(4, 3))


def _on_graphs() -> nn.Module:
    def layer(features: int) -> nn.Module:
        return wp.ImplicitGraph(features, 4, variant="lipschitz", activation="group_sort", kappa=1.0, omega=0.4)

    layers = (layer(3), layer(4), NodeSum(by_root=True))
    return GraphClassifier(layers, nn.Linear(4, 3))


def _moved(module: nn.Module) -> nn.Module:
    """A module with all parameters moved at random."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def _headed(layers: Callable[[], list[nn.Module]], shape: tuple[int, ...]) -> Subject:
    """Layers and a head that reads all of their value; in the Euclidean norm, in which all are proved."""

    def model() -> nn.Module:
        parts = nn.Sequential(*map(_moved, layers()))
        with torch.no_grad():
            features = parts(torch.randn(8, *shape, device="cpu"))[0].numel()
        return nn.Sequential(parts, nn.Flatten(), nn.Linear(features, 3))

    return Subject(model, shape, ("2",))


SUBJECTS: dict[str, Subject] = {
    "monotone": Subject(_normalised, (2, 2, 2)),
    "alone": Subject(lambda: nn.Sequential(wp.MonDEQ(6, 5, activation="tanh"))),
    "bounded": Subject(lambda: nn.Sequential(wp.LBEN(6, 5, gamma=2.0, out_features=3)), norms=("2",)),
    "feedthrough": Subject(lambda: nn.Sequential(wp.LBEN(6, 5, gamma=2.0, out_features=3, feedthrough=True)), norms=("2",)),
    "non-Euclidean": Subject(lambda: nn.Sequential(wp.NEMON(6, 5), nn.Linear(5, 3))),
    "positive": Subject(lambda: nn.Sequential(wp.PcDEQ(6, 5, batch_norm=True), nn.Linear(5, 3))),
    "without floor": Subject(lambda: nn.Sequential(wp.PcDEQ(6, 5, activation="sigmoid", floor=0.0), nn.Linear(5, 3))),
    "deep": Subject(_deep, norms=("2",)),
    "branches": Subject(Branched, norms=("2",)),
    "image": Subject(_image, (1, 6, 6)),
    "circulated": _headed(lambda: [wp.ConvMonDEQ(1, 2, (4, 3), border=1)], (1, 4, 3)),
    "scaled": _headed(lambda: [wp.ConvLBEN(1, 2, (4, 4), stride=2)], (1, 4, 4)),
    "bounded on images": Subject(
        lambda: _moved(wp.ConvLBEN(1, 2, (4, 4), gamma=2.0, out_features=3, pool=2, metric="full")), (1, 4, 4), ("2",)
    ),
    "channelwise": _headed(lambda: [wp.ConvNEMON(1, 2, (4, 3), mu=0.5)], (1, 4, 3)),
    "positive on images": _headed(lambda: [wp.ConvPcDEQ(1, 2, (4, 3))], (1, 4, 3)),
    "several scales": _headed(lambda: [wp.MultiScaleMonDEQ(1, (1, 2), (2, 4))], (1, 2, 4)),
    "graphs": Subject(_on_graphs, None, ("2",)),
    "cells": _headed(lambda: [wp.OrthogonalDEQ(5, 6, coupling="convex", omega=0.4, depth=2)], (5,)),
    "joint cells": _headed(lambda: [wp.OrthogonalDEQ(3, 6, coupling="joint", kappa=0.8)], (3,)),
    "orthogonal": _headed(lambda: [wp.OrthogonalConv2d(2, 4, (5, 6), stride=2), wp.GroupSort(dim=-3)], (2, 5, 6)),
    "cells on images": _headed(lambda: [wp.ConvOrthogonalDEQ(1, 4, (4, 3))], (1, 4, 3)),
}  # fmt: skip
