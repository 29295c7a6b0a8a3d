"""The entries of a certificate file, block by block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.activations import name_of
from wellposed.bounds.diagonal_metric import dense_metric_problem
from wellposed.bounds.factor import Factor
from wellposed.bounds.metric_inequality import DiagonalBound
from wellposed.bounds.tail_bound import TailBound
from wellposed.certificates.evidence.convolutional import DESCRIBED, describe_convolutional
from wellposed.certificates.evidence.explicit import EXPLICIT, describe_explicit
from wellposed.certificates.evidence.norms import checkable_norm
from wellposed.certificates.evidence.orthogonal import describe_cell, describe_graph_layer, describe_map
from wellposed.certificates.evidence.positive import describe_positive
from wellposed.layers.conv_orthogonal import ConvOrthogonalDEQ
from wellposed.layers.conv_pcdeq import ConvPcDEQ
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import NodeSum
from wellposed.layers.normalize import Normalize
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.layers.orthogonal_conv import OrthogonalConv2d, UnitPool2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.pcdeq import PcDEQ
from wellposed.layers.plain import flattens_images, is_plain
from wellposed.network import Network
from wellposed.network.kinds import block_of
from wellposed.network.kinds.pooling import AveragePoolingBlock, pair

Tensors = dict[str, Tensor]
_POSITIVE = (PcDEQ, ConvPcDEQ)


@torch.no_grad()
def describe(
    network: Network, factors: tuple[Factor, ...] | None, joint: TailBound | None
) -> tuple[list[dict[str, Any]], Tensors]:
    """The blocks of a certificate file, and its tensors.

    Args:
        network: what the certificate is about.
        factors: their constants; None where only the joint bound has one.
        joint: what is proved of the last layer with its head.
    """
    blocks, tensors = [], {}
    for place, (name, block) in enumerate(network.blocks):
        factor = None if factors is None else factors[place]
        path = network.path_of(name)
        prefix = f"{path}." if path else ""
        entry: dict[str, Any] = {
            "name": name, "class": type(block).__name__, "value": None if factor is None else factor.value,
            "reason": "" if factor is None else factor.reason, "kind": "other",
            "tensors": {key: prefix + key for key in block.state_dict()},
        }  # fmt: skip
        simple = _simple(block)
        if path is None and block.state_dict():
            pass  # its numbers have no name of their own in the model's weights
        elif simple is not None:
            entry.update(simple)
            if is_plain(block, nn.Linear) and factor is not None:
                entry["value"] = checkable_norm(block.weight, factor.value)
        elif isinstance(block, Equilibrium) and not isinstance(block, (*_POSITIVE, *DESCRIBED)):
            known = _equilibrium(block)
            if known is not None:
                entry = {**entry, "kind": "equilibrium", **known[0]}
                tensors.update({f"{name}/{key}": tensor for key, tensor in known[1].items()})
                if factor is not None and (joint is None or joint.place != place):
                    own = _own_bound(block)
                    if own is None:
                        entry["kind"] = "other"
                    else:
                        entry["value"] = max(factor.value, own.value)
                        tensors[f"{name}/multipliers"] = own.multipliers
        else:
            described = _described(block, name, entry["value"])
            if described is not None:
                entry.update(described[0])
                tensors.update(described[1])
        if entry["kind"] != "other":  # subclasses that compute nothing else have the name of what they compute
            entry["class"] = next(
                kind.__name__ for kind in type(block).__mro__ if kind.__module__.split(".")[0] in ("torch", "wellposed")
            )
        blocks.append(entry)
    if joint is not None:
        tensors["joint/multipliers"] = joint.multipliers
        if joint.shares is not None:
            tensors["joint/shares"] = joint.shares
    return blocks, tensors


def _described(block: nn.Module, name: str, value: float | None) -> tuple[dict[str, Any], Tensors] | None:
    """Entry and tensors of a block whose kind has a module of its own; None where the checker has no proof."""
    if isinstance(block, _POSITIVE):
        return describe_positive(block, name, value)
    if is_plain(block, OrthogonalLinear) or is_plain(block, OrthogonalConv2d):
        return describe_map(block, name, value)
    if isinstance(block, OrthogonalDEQ | ConvOrthogonalDEQ):
        return describe_cell(block, name)
    if value is None:  # in other norms these have no constants of their own
        return None
    if is_plain(block, ImplicitGraph) and block.variant != "ignn":
        return describe_graph_layer(block, name, value)
    if isinstance(block, EXPLICIT) and type(block) in EXPLICIT and is_plain(block, type(block)):
        return describe_explicit(block, name, value)
    if isinstance(block, DESCRIBED):
        return describe_convolutional(block, name, value)
    return None


def _simple(block: nn.Module) -> dict[str, Any] | None:
    """What is said of a block whose constant is a norm of what is in the weight file; None for other blocks."""
    if is_plain(block, nn.Linear):
        return {"kind": "linear"}
    if is_plain(block, nn.Conv2d):
        return {"kind": "convolution"}
    if is_plain(block, Normalize):
        return {"kind": "normalize"}
    if is_plain(block, nn.BatchNorm1d) or is_plain(block, nn.BatchNorm2d):
        return {"kind": "batch-norm", "epsilon": block.eps}
    if is_plain(block, UnitPool2d):
        return {"kind": "pooling", "window": [block.window, block.window]}
    if is_plain(block, NodeSum):
        return {"kind": "graph", "by_root": block.by_root}
    if is_plain(block, nn.MaxPool2d):
        return {"kind": "pooling", "window": list(pair(block.kernel_size)), "stride": list(pair(block.stride))}
    window = AveragePoolingBlock("", block).window if isinstance(block, nn.AvgPool2d) else None
    if window is not None:
        return {"kind": "pooling", "window": list(window)}
    if is_plain(block, nn.Flatten):
        dims = [block.start_dim, -1 if flattens_images(block) else block.end_dim]
        return {"kind": "nonexpansive", "dims": dims}
    return {"kind": "nonexpansive"} if block_of("", block).nonexpansive else None


def _equilibrium(layer: Equilibrium) -> tuple[dict[str, Any], Tensors] | None:
    """How the matrices of a layer come from its weights, and the matrices as they run; None where the checker has no formula."""
    state = layer.constraint.formula
    driven, matrix = layer.injection.formula, layer.operator().matrix()
    activation = name_of(layer.activation) if layer.activation.is_monotone else None
    if state is None or driven is None or activation is None or matrix is None or layer.direct is not None:
        return None
    entry = {"state": state, "input": driven, "output": layer.output is not None, "activation": activation}
    tensors = {"matrix": matrix, "input": layer.injection.weight}
    if layer.output is not None:
        tensors["output"] = layer.output.weight
    return entry, {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def _own_bound(layer: Equilibrium) -> DiagonalBound | None:
    """A constant of a layer that no joint bound covers, with the metric that proves it."""
    block = dense_metric_problem(layer)
    if block is None:
        return None
    eye = torch.eye(layer.state_features, dtype=torch.float64)
    return block.bound(eye if layer.output is None else layer.output.weight.detach().double().cpu())
