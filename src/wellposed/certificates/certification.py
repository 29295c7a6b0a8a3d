"""`certify`: a model's Lipschitz constants as an object that can be applied and checked again."""

from __future__ import annotations

import math
from numbers import Real

from torch import Tensor, nn

from wellposed.bounds.budget import Budget
from wellposed.bounds.collection import collect, least
from wellposed.certificates.certificate import Certificate
from wellposed.errors import InputError, check, checked_options
from wellposed.lower_bounds.witness import witness
from wellposed.network import Network, materialise
from wellposed.numerics.norm import norm_named

SECONDS = 60.0  # for the searches of metrics, unless others are given


@checked_options
def certify(
    model: nn.Module | Network,
    *,
    norm: float | str = 2,
    inputs: Tensor | None = None,
    method: str | None = None,
    seconds: float | None = None,
) -> Certificate:
    """Prove a Lipschitz constant of a model, and of every class margin where it ends in a linear layer.

    Several theorems are asked, of which the least constants count, for all outputs and for every margin; see `register_bound`
    for adding one.

    Args:
        model: a network, or any module that `materialise` can make one of, in eval mode. For a `GraphClassifier` the constant is
            that from node features, in the Frobenius norm, for every graph whose adjacency has a norm of at most one, as after
            symmetric normalisation.
        norm: 2, ``"inf"`` or 1, of inputs and outputs alike.
        inputs: data, shape (batch, ...), from which to search for a lower bound with its witness; None to skip that.
        method: the one theorem to ask: ``"product"`` for the product of the blocks' constants, or beside it
            ``"metric"`` for the best diagonal metric of the last layer and its head (Euclidean), ``"entrywise"`` for
            sensitivities entry by entry (ℓ∞ and ℓ1), ``"ellipsoids"`` (ℓ∞), ``"columns"`` (ℓ1), or the name of one that was
            registered; None for all.
        seconds: of wall-clock time for the searches of metrics together, `math.inf` for no limit. None for 60 where all theorems
            are asked, and for no limit where one is asked by its name. ``left_out`` of the certificate says what they did not
            suffice for, and class margins without a metric of their own get a constant from that of all outputs.

    Raises:
        CertificateError: a part of the model is not known, see `materialise`; its weights do not satisfy their theorem; or the
            method that was asked for does not apply.
        InputError: NaN or infinite weights, inputs that do not fit, or a method that is not about this norm.

    Example:
        >>> certificate = wp.certify(nn.Sequential(wp.MonDEQ(6, 5), nn.Linear(5, 3)), inputs=torch.rand(4, 6))
        >>> certificate.check() and certificate.lower_bound <= certificate.lipschitz
        True
    """
    named = norm_named(norm)
    network = _network_for(model, inputs)
    network.require_unchanged()
    network.check_precision()
    if seconds is not None:
        check(
            isinstance(seconds, Real) and seconds >= 0.0,
            "seconds",
            seconds,
            "must be a number that is not negative, or None",
        )
    budget = Budget.of(SECONDS if method is None else math.inf) if seconds is None else Budget.of(seconds)
    bounds, left_out = collect(network, named, None if method is None else str(method), budget)
    best, pairs = least(bounds)
    found = None if inputs is None else witness(network, inputs, norm=named)
    return Certificate(
        norm=named, lipschitz=best.value, method=best.reason, network=network, bounds=bounds, pairs=pairs,
        precision=network.precision, lower_bound=None if found is None else found.lipschitz,
        witness=None if found is None else (found.first, found.second), left_out=left_out,
    )  # fmt: skip


def _network_for(model: nn.Module | Network, inputs: Tensor | None) -> Network:
    """The network, for inputs that must fit it."""
    if inputs is None:
        return materialise(model)
    if not isinstance(inputs, Tensor):
        raise InputError(f"inputs: is a {type(inputs).__name__}; needs a torch tensor of shape (batch, ...)")
    if inputs.ndim < 2 or not len(inputs):
        words = f"has shape {tuple(inputs.shape)}, which is no input of a batch"
        raise InputError(f"inputs: {words}; give some inputs, shape (batch, ...), or None for no lower bound")
    try:
        network = materialise(model, tuple(inputs.shape[1:]))
    except InputError as error:
        raise InputError(f"inputs: {error}") from error
    if network.takes_graphs:
        raise InputError("inputs: tensors are no graphs; see wellposed.lower_bounds.graph_witness for a lower bound")
    if not inputs.is_floating_point():
        raise InputError(f"inputs: has dtype {inputs.dtype}; needs floating-point numbers")
    network.check_input(inputs.to(network.dtype), "inputs")
    return network
