"""Checks a certificate against a deployed network, one ONNX file, without the library that wrote them; see `core`."""

from .core import check as check
from .core import main as main
from .proofs import Refuted as Refuted
