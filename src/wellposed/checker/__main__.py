"""``python -m checker CERTIFICATE.json MODEL.onnx``."""

import sys

from .core import main

sys.exit(main(sys.argv[1:]))
