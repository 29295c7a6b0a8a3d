"""Published weights in: checkpoint layouts of other programs, read without running any code in them."""

from wellposed.interop.dense import LAYOUTS, DenseWeights, read_dense

__all__ = ["LAYOUTS", "DenseWeights", "read_dense"]
