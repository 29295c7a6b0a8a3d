"""Kinds of blocks, one a file: each holds all that the library knows of it."""

from wellposed.network.kinds import branches as branches
from wellposed.network.kinds import cells as cells
from wellposed.network.kinds import convolution as convolution
from wellposed.network.kinds import convolutional as convolutional
from wellposed.network.kinds import elementwise as elementwise
from wellposed.network.kinds import equilibrium as equilibrium
from wellposed.network.kinds import explicit as explicit
from wellposed.network.kinds import graphs as graphs
from wellposed.network.kinds import implicit as implicit
from wellposed.network.kinds import linear as linear
from wellposed.network.kinds import pooling as pooling
from wellposed.network.kinds import positive as positive
from wellposed.network.kinds import scaled as scaled
from wellposed.network.kinds import scales as scales
from wellposed.network.kinds import scaling as scaling
from wellposed.network.kinds.block import Block as Block
from wellposed.network.kinds.block import block_of as block_of
from wellposed.network.kinds.block import kind_for as kind_for
from wellposed.network.kinds.block import kind_of as kind_of
from wellposed.network.kinds.block import noted_classes as noted_classes
