"""The end of a model: an equilibrium layer and the linear map after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.layers.conv_equilibrium import ImageLayer
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.plain import is_plain, moves_only
from wellposed.network.constants import pooling_window

Chain = Sequence[tuple[str, nn.Module]]


def find(chain: Chain) -> tuple[int, str, Equilibrium, Any] | None:
    """Place and names of an equilibrium layer at the end of a chain, the layer, and its linear head, or None if it has none.

    The head has the attributes of `torch.nn.Linear`.
    """
    place = _last_layer(chain)
    if place is None:
        return None
    name, layer = chain[place]
    if not isinstance(layer, Equilibrium) or layer.direct is not None:
        return None
    rest = [(label, block) for label, block in chain[place + 1 :] if not moves_only(block)]
    if layer.output is not None:
        return None if rest else (place, name, layer, layer.output)
    if not rest:
        return place, name, layer, None
    label, head = rest[0]
    if len(rest) > 1 or not (is_plain(head, nn.Linear) or is_plain(head, OrthogonalLinear)):
        return None
    return place, f"{name} + {label}", layer, head


def output_map(layer: Equilibrium, head: Any) -> Tensor:
    """The matrix of the head, or the identity: shape (outputs, n), float64."""
    if head is None:
        return torch.eye(layer.state_features, dtype=torch.float64)
    return head.weight.detach().double().cpu()


@dataclass(frozen=True, eq=False)
class Pooled:
    """A layer on one image, averages over square windows, if any, and a linear head.

    Attributes:
        place: of the layer in the chain.
        name: of all of them.
        layer: the layer.
        rows: weight of the head, float64.
        window: rows and columns of the windows, one for no averages.
    """

    place: int
    name: str
    layer: ImageLayer
    rows: Tensor
    window: int

    def spread(self, rows: Tensor) -> Tensor:
        """The map from the state for some rows of the head, shape (outputs, state_features); every entry rounds once."""
        channels, height, width = self.layer.state_shape
        shaped = rows.reshape(len(rows), channels, height // self.window, width // self.window) / self.window**2
        image = shaped.repeat_interleave(self.window, 2).repeat_interleave(self.window, 3)
        return nn.functional.pad(image, (0, width - image.shape[3], 0, height - image.shape[2])).flatten(1)


def find_pooled(chain: Chain) -> Pooled | None:
    """What of a chain is `Pooled`, at its end."""
    place = _last_layer(chain)
    if place is None:
        return None
    name, layer = chain[place]
    if not isinstance(layer, ImageLayer) or layer.value_shape != layer.state_shape:
        return None
    rest = [(label, block) for label, block in chain[place + 1 :] if not is_plain(block, nn.Identity)]
    window, names = 1, [name]
    if rest and isinstance(rest[0][1], nn.AvgPool2d):
        found = pooling_window(rest[0][1])
        if found is None or found[0] != found[1]:
            return None
        window = found[0]
        names.append(rest[0][0])
        rest = rest[1:]
    # Any other way of flattening would mix up the channels and pixels that the head sees.
    if len(rest) != 2 or not is_plain(rest[0][1], nn.Flatten) or not is_plain(rest[1][1], nn.Linear):
        return None
    flatten, head = rest[0][1], rest[1][1]
    assert isinstance(flatten, nn.Flatten) and isinstance(head, nn.Linear)
    channels, height, width = layer.state_shape
    features = channels * (height // window) * (width // window)
    if flatten.start_dim != 1 or flatten.end_dim not in (-1, 3) or head.weight.shape[1] != features:
        return None
    return Pooled(place, " + ".join([*names, rest[1][0]]), layer, head.weight.detach().double().cpu(), window)


def _last_layer(chain: Chain) -> int | None:
    places = [place for place, (_, block) in enumerate(chain) if isinstance(block, ImplicitLayer)]
    return places[-1] if places else None
