"""Certificates that claim something else of the end of their network."""

from __future__ import annotations

import dataclasses

import wellposed as wp
from wellposed.bounds.tail_bound import TailBound


def with_tail(certificate: wp.Certificate, tail: TailBound) -> wp.Certificate:
    """The certificate with another claim in the place of what diagonal metrics prove."""
    bounds = tuple(
        bound if bound.tail is None else dataclasses.replace(bound, tail=tail) for bound in certificate.bounds
    )
    return dataclasses.replace(certificate, bounds=bounds)
