"""The part of a model that per-input verification is about: from pixels to logits through one ReLU equilibrium."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn

from wellposed.activations import ReLU
from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.bounds.tail import normalisation_before, tail_of
from wellposed.errors import CertificateError
from wellposed.guarantee.metric_search import known_metric
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.frozen import frozen
from wellposed.maps.linear import LinearMap
from wellposed.network import Network, materialise
from wellposed.network.metric import metric_guarantee
from wellposed.numerics.outward import enlarged, enlarged_norm, rounding_constant


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Centre:
    """Inputs with everything known of the network there; float64.

    Attributes:
        input: x₀, shape (*, inputs).
        offset: Ux₀ + b, shape (*, n).
        offset_error: of that, shape (*, n).
        state: z*(x₀), shape (*, n).
        preactivation: Wz* + Ux₀ + b, shape (*, n).
        error: of the pre-activation, shape (*, n).
        state_error: of the state, Euclidean, shape (*).
        logits: shape (*, classes).
        converged: whether the solve did, boolean, shape (*); nothing else holds where it did not.
    """

    input: Tensor
    offset: Tensor
    offset_error: Tensor
    state: Tensor
    preactivation: Tensor
    error: Tensor
    state_error: Tensor
    logits: Tensor
    converged: Tensor

    def __repr__(self) -> str:
        return f"Centre(input={tuple(self.input.shape)})"

    def __getitem__(self, rows: int | Tensor) -> Self:
        """Some of the inputs, or one."""
        return type(self)(**{name: part[rows] for name, part in vars(self).items()})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AffineNetwork:
    """``y = C z* + c``, ``z* = max(W z* + U x + b, 0)`` on flat inputs in the model's own units (pixels).

    W, C and c are the numbers that run. A normalisation before the layer is folded into U and b, which rounds: their entries
    err by ``folding`` relative to ``weight`` and ``bias_size``.

    Attributes:
        matrix: W, shape (n, n), float64.
        weight: U, shape (n, inputs).
        bias: b, shape (n,).
        bias_size: sum of the absolute values of the terms of b, shape (n,).
        output: C, shape (classes, n).
        output_bias: c, shape (classes,).
        layer: the same layer, for certified solves.
        folding: relative error of the entries of U, and of b relative to ``bias_size``.
        roundings: how many roundings of float64 the entries of U are off, of which ``folding`` counts more.
    """

    matrix: Tensor
    weight: Tensor
    bias: Tensor
    bias_size: Tensor
    output: Tensor
    output_bias: Tensor
    layer: Equilibrium
    folding: float
    roundings: int

    def __repr__(self) -> str:
        return f"AffineNetwork(weight={tuple(self.weight.shape)}, output={tuple(self.output.shape)})"

    @cached_property
    def gram(self) -> Tensor:
        """UUᵀ, shape (n, n)."""
        return self.weight @ self.weight.t()

    @cached_property
    def row_norms(self) -> Tensor:
        """Upper bounds of the Euclidean norms of U's rows, shape (n,)."""
        return enlarged_norm(self.weight.norm(dim=1), self.weight.shape[1] + 1) * (1.0 + self.folding)

    @cached_property
    def metric(self) -> Tensor:
        """A diagonal metric in which the layer is well posed, shape (n,).

        Raises:
            CertificateError: none is known or found.
        """
        found = known_metric(self.matrix, self.layer.guarantee())
        if found is None:
            raise CertificateError("W: no diagonal metric proves the layer well posed")
        return found

    @cached_property
    def offset_lipschitz(self) -> float:
        """Proved Euclidean Lipschitz constant of q ↦ z*."""
        return self.layer.guarantee().offset_lipschitz()

    @cached_property
    def slopes(self) -> Tensor:
        """Proved Euclidean Lipschitz constants of the pre-activations as functions of the input, shape (n,).

        v_k is the state of a further unit z_k = 1·v_k: the best diagonal metric for W and U with that row added bounds it.
        """
        size, metric = len(self.matrix), self.metric
        half = metric[:, None] * (torch.eye(size, dtype=torch.float64, device="cpu") - self.matrix)
        factor = torch.linalg.cholesky_ex(half + half.t())[0]
        found = torch.empty(size, dtype=torch.float64, device="cpu")
        seen = torch.zeros(1, size + 1, dtype=torch.float64, device="cpu")
        seen[0, -1] = 1.0
        whole = DenseMetricProblem(self.matrix, self.weight, metric).bound(
            torch.eye(size, dtype=torch.float64, device="cpu")
        )
        for k in range(size):
            matrix = torch.zeros(size + 1, size + 1, dtype=torch.float64, device="cpu")
            matrix[:size, :size], matrix[size, :size] = self.matrix, self.matrix[k]
            weight = torch.cat([self.weight, self.weight[k : k + 1]])
            # Small enough that M stays positive definite: λ < 2/(W_k M⁻¹ W_kᵀ).
            reach = torch.linalg.solve_triangular(factor, self.matrix[k][:, None], upper=False).square().sum()
            own = 1.0 / (float(reach) + 1e-12 / float(metric.amax()))
            start = torch.cat([metric, metric.new_tensor([own])])
            bound = DenseMetricProblem(matrix, weight, start).bound(seen)
            fallback = torch.inf if whole is None else float(self.matrix[k].norm()) * whole.value
            found[k] = float(self.row_norms[k]) + fallback if bound is None else bound.value
        if self.folding == 0.0:
            return found
        # Whatever the slopes of σ, an error ΔU of the folded U moves the gradient of v_k by at most ‖ΔU_k‖ + ‖W_k‖·S·‖ΔU‖.
        largest = self.offset_lipschitz * enlarged_norm(self.weight.norm(), self.weight.numel())
        return enlarged(found + self.folding * (self.row_norms + self.matrix.norm(dim=1) * largest), size + 8)

    @torch.no_grad()
    def centre(self, x: Tensor) -> Centre:
        """The network at inputs of shape (*, inputs), with rigorous errors."""
        flat = x.detach().double().cpu().reshape(-1, x.shape[-1])
        offset = flat @ self.weight.t() + self.bias
        unit = rounding_constant(self.weight.shape[1] + 8) + self.folding
        offset_error = unit * (flat.abs() @ self.weight.abs().t() + self.bias_size)
        solution = self.layer.sharpened(flat)
        assert solution.error_bound is not None
        state = solution.value
        away = solution.error_bound + self.offset_lipschitz * offset_error.norm(dim=1)
        away = enlarged(away, len(self.matrix) + 4)
        value = state @ self.matrix.t() + offset
        terms = state.abs() @ self.matrix.abs().t() + offset.abs()
        rows = enlarged_norm(self.matrix.norm(dim=1), len(self.matrix))
        error = enlarged(rows * away[:, None] + rounding_constant(state.shape[1] + 6) * terms + offset_error, 4)
        logits = state @ self.output.t() + self.output_bias
        parts = {
            "input": flat, "offset": offset, "offset_error": offset_error, "state": state, "preactivation": value,
            "error": error, "state_error": away, "logits": logits, "converged": solution.converged,
        }  # fmt: skip
        return Centre(**{name: part.reshape(x.shape[:-1] + part.shape[1:]) for name, part in parts.items()})


@torch.no_grad()
def affine_network(model: nn.Module | Network, *, relu_only: bool = True) -> AffineNetwork:
    """The numbers of a model: normalisation and flattening, one ReLU layer on flat inputs, and a linear head.

    Layers without a guarantee of their own are taken if a diagonal metric proves them well posed.

    Args:
        model: a network, or a module to be materialised.
        relu_only: whether to refuse other activations with slopes in [0, 1].

    Raises:
        CertificateError: the model is of another kind, or not known to be well posed.
    """
    blocks = materialise(model).blocks
    tail = tail_of(blocks)
    if tail is None:
        raise CertificateError(
            "model: per-input verification needs an equilibrium layer followed by at most one linear layer"
        )
    name, layer = tail.name, tail.layer
    if layer.activation != ReLU() and (relu_only or not layer.activation.is_monotone):
        raise CertificateError(f"{name}: has the activation {layer.activation!r}; this verification is about ReLU")
    driven = layer.injection.matrix()
    if layer.operator().matrix() is None or driven is None:
        raise CertificateError(f"{name}: needs a state map that is a matrix, and a linear input map")
    fixed, driven = frozen(layer, metric_guarantee(name, layer)), driven.cpu()
    found, roundings = normalisation_before(blocks, tail.place, driven.terms), driven.roundings
    if found is not None:
        driven, roundings = driven.behind(*found), roundings + 1
    fixed.injection = LinearMap.of(driven.weight, driven.bias)
    return AffineNetwork(
        matrix=fixed.operator().dense().detach(), weight=driven.weight, bias=driven.bias, bias_size=driven.bias_size,
        output=tail.rows, output_bias=tail.bias, layer=fixed, folding=rounding_constant(driven.roundings),
        roundings=roundings,
    )  # fmt: skip
