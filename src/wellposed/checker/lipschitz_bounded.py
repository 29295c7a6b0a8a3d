"""W = I − Ψ(VᵀV + εI + Sᵀ − S), and with an output map O and an input map U more that they are bounded by (Revay et al. 2020)."""

import numpy as np

from .case import Getter
from .proofs import Array, sum_units

ROLES = {"V", "S", "psi", "_extra_state"}


def weight(get: Getter, output: bool) -> tuple[Array, Array]:
    """W from the free parameters, in float64, and how many units in the last place each entry may be off."""
    v, skew, psi = get("constraint.V"), get("constraint.S"), get("constraint.psi")
    size, eye, skew = len(v), np.eye(len(v)), skew.T - skew
    margin = float(get("constraint._extra_state")) * (1.0 + float((v**2).sum()) / size)
    core = v.T @ v + margin * eye + skew
    off = sum_units(size) * np.abs(v).T @ np.abs(v) + (size + 16.0) * abs(margin) * eye + 8.0 * np.abs(skew)
    if output:
        u, o = np.exp(-psi)[:, None] * get("injection.free"), get("output.free")
        core = core + 0.5 * (o.T @ o + u @ u.T)
        off = off + (8.0 + sum_units(len(o))) * np.abs(o).T @ np.abs(o)
        off = off + (24.0 + sum_units(u.shape[1])) * np.abs(u) @ np.abs(u).T
    scale = np.exp(psi)[:, None]
    return eye - scale * core, scale * (off + 8.0 * np.abs(core)) + 8.0 * eye
