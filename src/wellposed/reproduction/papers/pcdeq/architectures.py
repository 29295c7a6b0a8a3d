"""The networks of the paper."""

from __future__ import annotations

from dataclasses import dataclass

_SVHN = "no copy of SVHN's cropped digits could be had to check this recipe with"


@dataclass(frozen=True)
class Architecture:
    """A network of the paper.

    Attributes:
        name: of its recipe.
        shows: where it stands in the paper.
        title: what it is.
        kind: dense, conv or multi.
        data: the set.
        preset: its settings; empty for the dense network, whose layers for tanh and softsign and for the sigmoid have one each.
        cpu_hours: of the recipe.
        gpu: whether that wants a GPU.
        missing: why it cannot be run.
    """

    name: str
    shows: str
    title: str
    kind: str
    data: str
    preset: str
    cpu_hours: float
    gpu: bool
    missing: str = ""


_CONV, _MULTI = "papers/cifar10-pcdeq-conv", "papers/cifar10-pcdeq-multi"
ARCHITECTURES = (
    Architecture("pcdeq-mnist-dense", "Figure 4, MNIST", "one dense layer of 80 features", "dense", "mnist", "", 0.5, False),
    Architecture(
        "pcdeq-mnist-conv", "Figures 2 to 4, MNIST", "one convolutional layer of 82 channels", "conv", "mnist",
        "papers/mnist-pcdeq-conv", 200.0, True,
    ),
    Architecture(
        "pcdeq-mnist-multi", "MNIST table", "convolutional layers of 12, 24 and 48 channels", "multi", "mnist",
        "papers/mnist-pcdeq-multi", 25.0, True,
    ),
    Architecture(
        "pcdeq-cifar10-conv", "Figures 2 to 4, CIFAR-10", "one convolutional layer of 125 channels", "conv", "cifar10", _CONV,
        830.0, True,
    ),
    Architecture(
        "pcdeq-cifar10-multi", "CIFAR-10 table", "convolutional layers of 20, 50 and 80 channels", "multi", "cifar10", _MULTI,
        130.0, True,
    ),
    Architecture(
        "pcdeq-cifar10-multi-large", "CIFAR-10 table, augmented", "convolutional layers of 100, 120 and 140 channels", "multi",
        "cifar10", f"{_MULTI}-large", 1380.0, True,
    ),
    Architecture(
        "pcdeq-svhn-conv", "Figures 2 to 4, SVHN", "one convolutional layer of 125 channels", "conv", "svhn", _CONV, 1220.0, True,
        _SVHN,
    ),
    Architecture(
        "pcdeq-svhn-multi", "SVHN table", "convolutional layers of 20, 50 and 80 channels", "multi", "svhn", _MULTI, 190.0, True,
        _SVHN,
    ),
)  # fmt: skip
