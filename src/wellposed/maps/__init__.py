"""Input and output maps: the affine maps around the state of a layer, one kind a file, and what theorems ask of them."""

from wellposed.maps.affine import Affine as Affine
from wellposed.maps.affine import Matrix as Matrix
from wellposed.maps.base import AffineMap as AffineMap
from wellposed.maps.base import InputMap as InputMap
from wellposed.maps.circular import CircularInjection as CircularInjection
from wellposed.maps.convolution import CircularConvolution as CircularConvolution
from wellposed.maps.convolution import Convolution as Convolution
from wellposed.maps.feedthrough import Feedthrough as Feedthrough
from wellposed.maps.image import ImageInjection as ImageInjection
from wellposed.maps.linear import LinearMap as LinearMap
from wellposed.maps.linear import input_map as input_map
from wellposed.maps.pooled import PooledLinear as PooledLinear
from wellposed.maps.positive import PositiveInjection as PositiveInjection
from wellposed.maps.positive import PositiveLinear as PositiveLinear
from wellposed.maps.positive_convolution import PositiveConv2d as PositiveConv2d
from wellposed.maps.positive_part import PositivePart as PositivePart
from wellposed.maps.scaled import ScaledLinear as ScaledLinear
