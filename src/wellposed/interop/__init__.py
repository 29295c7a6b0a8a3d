"""Published weights in: checkpoint layouts of other programs, read without running any code in them."""

from wellposed.interop.dense import DenseWeights, read_dense
from wellposed.interop.published import Published
from wellposed.interop.read import LAYOUTS, read_published

__all__ = ["LAYOUTS", "DenseWeights", "Published", "read_dense", "read_published"]
