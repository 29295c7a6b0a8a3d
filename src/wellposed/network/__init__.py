"""Networks as they run: blocks of known kinds with stored numbers, apart from the modules that train them."""

from wellposed.network.kinds import Block as Block
from wellposed.network.known import register as register
from wellposed.network.logits import bounded_logits as bounded_logits
from wellposed.network.logits import surely_misclassified as surely_misclassified
from wellposed.network.materialise import materialise as materialise
from wellposed.network.network import Network as Network
from wellposed.network.pointwise import Elementwise as Elementwise
from wellposed.network.propagation import BoundedLogits as BoundedLogits
from wellposed.network.propagation import Own as Own
