"""A certificate as the claim and the evidence of its file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wellposed.bounds.factor import Factor
from wellposed.bounds.tail_bound import TailBound
from wellposed.certificates.filing.claims import claims
from wellposed.certificates.filing.file import read
from wellposed.certificates.filing.states import witness_states
from wellposed.errors import CertificateError
from wellposed.network import Network
from wellposed.numerics.norm import norm_named

if TYPE_CHECKING:
    from wellposed.certificates.certificate import Certificate

_ASSUMPTIONS = (
    "the network is the chain of the blocks, in this order, each computing what its class says, in eval mode",
    "evaluations elsewhere are by solve and converge, to the tolerances that the layers had when radii were computed",
)


def filed_as(
    certificate: Certificate, network: Network, proved: TailBound | None, lipschitz: float, pairs: Tensor | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The claim and the evidence of a certificate's file.

    Args:
        certificate: what is filed.
        network: what it is about.
        proved: what diagonal metrics prove of the tail, which the checker is to follow.
        lipschitz: the constant with that bound.
        pairs: constants of class margins with it, or None.
    """
    chain = network.blocks
    filed = claims(network, certificate.norm, certificate.factors, proved, lipschitz, pairs)
    tensors = filed.tensors
    lower = certificate.lower_bound
    if certificate.witness is not None:
        tensors["witness/points"] = torch.stack(certificate.witness)
        points = tensors["witness/points"]
        found = None if proved is None else witness_states(chain, proved, points, certificate.norm)
        if found is not None and lower is not None:
            tensors, lower = {**tensors, **found[0]}, max(min(found[1], lower), 0.0)
    metric_bound = None
    if proved is not None:
        metric_bound = {
            "block": proved.block, "place": proved.place, "value": proved.value,
            "pairs": None if proved.pairs is None else proved.pairs.tolist(),
        }  # fmt: skip
    content: dict[str, Any] = {
        "norm": certificate.norm,
        "lipschitz": filed.lipschitz,
        "method": certificate.method,
        "assumptions": [
            *_ASSUMPTIONS,
            *dict.fromkeys(assumption for block in chain for assumption in block.assumptions),
            f"arithmetic of at least the precision {certificate.precision}",
        ],
        "blocks": filed.blocks,
        "joint": metric_bound,
        "components": filed.by_components,
        "pairs": None if filed.pairs is None else filed.pairs.tolist(),
        "weights_sha256": certificate.weights_sha256,
        "precision": certificate.precision,
        "lower_bound": lower,
    }
    return content, tensors


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a `Certificate` out of its file, in place of its bounds what `wellposed.bounds.collection.restored` takes.

    Raises:
        CertificateError: not a certificate of this format, or changed since it was written.
    """
    content, tensors = read(path)
    try:
        entry, points, norm = content["joint"], tensors.get("witness/points"), norm_named(content["norm"])
        factors = [Factor(block["name"], block["value"], block["reason"]) for block in content["blocks"]]
        return {
            "norm": norm,
            "lipschitz": float(content["lipschitz"]),
            "method": content["method"],
            "factors": tuple(factors) if norm == "2" else (),
            "tail": None if entry is None else TailBound(
                block=entry["block"], place=int(entry["place"]), value=float(entry["value"]),
                multipliers=tensors["joint/multipliers"], pairs=_matrix(entry["pairs"]), shares=tensors.get("joint/shares"),
            ),
            "components": bool(content["components"]),
            "pairs": _matrix(content["pairs"]),
            "weights_sha256": content["weights_sha256"],
            "precision": content["precision"],
            "lower_bound": None if content["lower_bound"] is None else float(content["lower_bound"]),
            "witness": None if points is None else (points[0], points[1]),
        }  # fmt: skip
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CertificateError(f"{path}: not a readable certificate ({error})") from error


def _matrix(rows: Any) -> Tensor | None:
    return None if rows is None else torch.tensor(rows, dtype=torch.float64, device="cpu")
