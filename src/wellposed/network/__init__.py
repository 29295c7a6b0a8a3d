"""Networks as they run: blocks of known kinds with stored numbers, apart from the modules that train them."""

from wellposed.network.known import register as register
from wellposed.network.network import Network as Network
from wellposed.network.network import materialise as materialise
