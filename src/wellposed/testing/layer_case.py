"""What every constrained layer must do."""

from __future__ import annotations

from wellposed.testing.layer_derivatives import LayerDerivatives
from wellposed.testing.layer_evidence import LayerEvidence
from wellposed.testing.layer_use import LayerUse


class LayerCase(LayerEvidence, LayerDerivatives, LayerUse):
    """Every check of a layer of 7 input and 6 state features; inherit, and give ``make_layer``, ``true_state`` and ``condition``.

    Example:
        A family without a linear part: W = (1 − m)I, so that z = max(0, Ux + b)/m.

        >>> import torch, wellposed as wp
        >>> from wellposed.testing import LayerCase
        >>> class TestDiagonal(LayerCase):
        ...     def make_layer(self, dtype=torch.float64, **options):
        ...         torch.manual_seed(0)
        ...         layer = wp.MonDEQ(7, 6, dtype=dtype, **{"m": 2.0, **options})
        ...         torch.nn.init.zeros_(layer.constraint.A)
        ...         torch.nn.init.zeros_(layer.constraint.B)
        ...         return layer
        ...     def true_state(self, layer, x):
        ...         weight, bias = layer.injection.weight.double(), layer.injection.bias.double()
        ...         return (x @ weight.T + bias).relu().detach() / 2.0
        ...     def condition(self, layer):
        ...         gap = torch.eye(6, dtype=torch.float64) - layer.operator().dense().detach().double()
        ...         return float(torch.linalg.eigvalsh(0.5 * (gap + gap.T))[0])
        >>> TestDiagonal().test_value_and_error_bound(torch.float64)
    """
