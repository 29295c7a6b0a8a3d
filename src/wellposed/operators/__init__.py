"""State maps W: linear maps that know their adjoint, their resolvent and bounds of their norm."""

from wellposed.operators.base import Operator as Operator
from wellposed.operators.circular import Circular as Circular
from wellposed.operators.dense import Dense as Dense
from wellposed.operators.driven_circular import DrivenCircular as DrivenCircular
from wellposed.operators.multi_scale import MultiScale as MultiScale
from wellposed.operators.scaled_circular import ScaledCircular as ScaledCircular
from wellposed.operators.zero_padded import ZeroPadded as ZeroPadded
