"""A network as one ONNX file, which runs without this library and bounds its own errors."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, InputError, WellposedError, check, checked_options
from wellposed.network import Block, Network, materialise
from wellposed.writing import written_whole

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-3  # of logits, or of what estimates are measured by


@checked_options
def export(
    model: nn.Module | Network,
    path: str | Path,
    *,
    tolerance: float | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Network:
    """Write a network as one ONNX file that any ONNX runtime executes, and that says how far off its answers may be.

    The file computes in the network's own float32 numbers. Its input ``x`` has the shape (batch, *input_shape); its outputs are
    ``logits``, and ``error_bound``: for each sample a bound on the Euclidean distance of the logits from those of exact
    arithmetic, every rounding and every unfinished iteration counted. Where that bound exceeds the tolerance it is infinite,
    and the answer is to be refused. Every layer is a node of the domain ``wellposed``, whose meaning is a function in the file,
    made of standard operators.

    Args:
        model: a module or a network. One in float64 becomes its float32 network first.
        path: of the file.
        tolerance: the largest bound of an error for which an answer counts, in units of the outputs. None for 0.001; for what
            `wellposed.train` gave by regression, 0.001 standard deviations of the targets.
        input_shape: of one input, where the network does not tell it.

    Returns:
        The network that the file computes, in float32: certify that one.

    Raises:
        CertificateError: the network cannot be materialised, or a block has no form in such files; it is named.
        InputError: an argument is unusable, or the file cannot be written.
    """
    place = path_of("path", path)
    network = float32_network(model, input_shape)
    written = deployed(network, tolerance=tolerance_of(model, tolerance))
    try:
        with written_whole(place) as unfinished:
            unfinished.write_bytes(written.SerializeToString(deterministic=True))
    except OSError as error:
        raise InputError(f"path={str(path)!r}: cannot be written ({error.strerror}); choose another place") from error
    return network


def tolerance_of(model: nn.Module | Network, given: float | None) -> float:
    """The tolerance of a file.

    Args:
        model: that it is of; a module may say by ``output_unit`` what errors of its outputs are measured by.
        given: None for the default, see `export`.
    """
    return TOLERANCE * float(getattr(model, "output_unit", 1.0)) if given is None else given


def deployed(network: Network, *, tolerance: float = TOLERANCE) -> ModelProto:
    """A float32 network as an ONNX model, see `export`.

    Args:
        network: with a known input shape.
        tolerance: see `export`.
    """
    return deployed_with_evidence(network, tolerance)[0]


def deployed_with_evidence(network: Network, tolerance: float) -> tuple[ModelProto, dict[str, Tensor]]:
    """A float32 network as an ONNX model, see `export`, and what proves something of its nodes, see `certificate`.

    Args:
        network: with a known input shape.
        tolerance: see `export`.

    Raises:
        CertificateError: a block has no form in such files, or has other than float32 weights.
        InputError: the tolerance is not positive, or the shape of inputs is not known.
    """
    from onnx import checker  # takes a quarter of a second

    from wellposed.deployment.graph import OnnxGraph

    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    check(
        number, "tolerance", tolerance, "must be a number, the largest error of the logits for which an answer counts"
    )
    small = abs(tolerance) < 1e39  # else it may be no float at all
    stored = float(torch.tensor(tolerance, dtype=torch.float32, device="cpu")) if small else math.inf
    check(0.0 < stored < math.inf, "tolerance", tolerance, "must be positive and finite in float32")
    shape = shape_of_inputs(network)
    if shape is None:
        raise InputError("input_shape=None: the network takes inputs of several shapes; say which the file is for")
    graph = OnnxGraph()
    edge = graph.enter(shape, on_graphs=network.takes_graphs)
    for place, block in enumerate(network.blocks):
        graph.allowed = stored / _constant_of(network.blocks[place + 1 :])
        edge = block.deploy(graph, edge)
    written = graph.finish(edge, shape, stored)
    checker.check_model(written)
    return written, graph.evidence


def shape_of_inputs(network: Network) -> tuple[int, ...] | None:
    """The shape of one input, or of the features of one node of graphs; None where it is not known."""
    return network.blocks[0].input_shape if network.takes_graphs else network.input_shape


def path_of(name: str, path: object) -> Path:
    """The path of a file or folder.

    Args:
        name: of the argument, for the error.
        path: a string or a path.

    Raises:
        InputError: it is none, or no system could have a file of that name.
    """
    usable = isinstance(path, str | Path) and "\0" not in str(path) and str(path) != ""
    check(usable, name, path, "must be the path of a file, a string or a pathlib.Path")
    found = Path(path)  # type: ignore[arg-type]
    try:
        os.fsencode(found)
        found.exists()
    except (OSError, ValueError) as error:  # too long, or letters that no system has in names
        raise InputError(f"{name}={str(path)[:80]!r}: no file can have this name; choose another") from error
    return found


def content_of(name: str, path: Path) -> bytes:
    """The content of a file.

    Args:
        name: of the argument, for the error.
        path: of the file.

    Raises:
        InputError: it is no regular file, or cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe, which might never end
        raise InputError(f"{name}={str(path)!r}: is no regular file; give one that wellposed.export wrote")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{name}={str(path)!r}: cannot be read ({error.strerror}); give a file that wellposed.export wrote"
        ) from error


def _constant_of(blocks: Sequence[Block]) -> float:
    """The product of the blocks' constants, those left out that are not known; it only says how far iterations go."""
    found = 1.0
    for block in blocks:
        with contextlib.suppress(WellposedError):
            found *= block.constant("2")[0]
    return max(found, 1e-30)


def float32_network(model: nn.Module | Network, input_shape: tuple[int, ...] | None = None) -> Network:
    """The network that a deployed file of a model computes: its own, or for one in float64 what rounding to float32 makes of it.

    Args:
        model: a module or a network.
        input_shape: of one input, where the network does not tell it.
    """
    network = materialise(model, input_shape)
    if network.dtype == torch.float32:
        return network
    if isinstance(model, Network):
        raise CertificateError(
            "network: is in float64, and files hold float32 numbers; give the module, or materialise module.float()"
        )
    return materialise(copy.deepcopy(model).float(), network.input_shape)
