"""Verification of single inputs: is every point of a ball or box around one classified alike?"""

from torch import nn

from wellposed.errors import CertificateError
from wellposed.network import Network, materialise
from wellposed.verification.base import RegionVerifier
from wellposed.verification.chain import ChainVerifier
from wellposed.verification.intervals import IntervalVerifier
from wellposed.verification.positive import PositiveVerifier
from wellposed.verification.verdict import Verdict
from wellposed.verification.verifier import LADDER, Verifier

__all__ = [
    "LADDER",
    "ChainVerifier",
    "IntervalVerifier",
    "PositiveVerifier",
    "RegionVerifier",
    "Verdict",
    "Verifier",
    "verifier_of",
]


def verifier_of(model: nn.Module | Network, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> RegionVerifier:
    """The strongest verifier for a model.

    Args:
        model: a network, or a module to be materialised.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: there is none.
    """
    network, reasons = materialise(model), []
    for kind in (Verifier, ChainVerifier, PositiveVerifier, IntervalVerifier):
        try:
            return kind(network, valid=valid)
        except CertificateError as error:
            reasons.append(str(error))
    raise CertificateError("; ".join(reasons))
