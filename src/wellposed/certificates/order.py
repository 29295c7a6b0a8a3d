"""A proved lower bound above a proved upper one: one of the two proofs is wrong, and no number may be believed."""

from __future__ import annotations

from wellposed.errors import CertificateError


def must_be_ordered(lower: float | None, upper: float | None) -> None:
    """Refuse two bounds of one Lipschitz constant that contradict each other; None for a bound that is not known.

    Args:
        lower: at most the constant.
        upper: at least the constant.

    Raises:
        CertificateError: the lower bound is above the upper one, or one of them is NaN.
    """
    if lower is not None and upper is not None and not lower <= upper:
        raise CertificateError(
            f"contradiction: lipschitz is at least {lower!r} and at most {upper!r}, both proved; certify the model again, and "
            "report it if that does not help"
        )
