"""Upper bounds of Lipschitz constants, one theorem a file; `collection` is the list that `certify` takes the least of."""

from wellposed.bounds.bound import Bound as Bound
from wellposed.bounds.bound import BoundMethod as BoundMethod
from wellposed.bounds.bound import NotApplicable as NotApplicable
from wellposed.bounds.collection import bound_methods as bound_methods
from wellposed.bounds.collection import register_bound as register_bound
from wellposed.bounds.collection import unregister_bound as unregister_bound
