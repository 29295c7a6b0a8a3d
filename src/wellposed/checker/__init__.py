"""Checks a certificate file against a weight file, without the library that wrote it; see `core`."""

from .core import Checker as Checker
from .core import main as main
from .proofs import Refuted as Refuted
