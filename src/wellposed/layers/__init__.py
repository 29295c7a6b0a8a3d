"""Ordinary ``torch.nn.Module`` layers whose value is an equilibrium."""

from wellposed.layers.conv_lben import ConvLBEN as ConvLBEN
from wellposed.layers.conv_mondeq import ConvMonDEQ as ConvMonDEQ
from wellposed.layers.conv_nemon import ConvNEMON as ConvNEMON
from wellposed.layers.conv_orthogonal import ConvOrthogonalDEQ as ConvOrthogonalDEQ
from wellposed.layers.conv_pcdeq import ConvPcDEQ as ConvPcDEQ
from wellposed.layers.deq import DEQ as DEQ
from wellposed.layers.equilibrium import Equilibrium as Equilibrium
from wellposed.layers.graph import ImplicitGraph as ImplicitGraph
from wellposed.layers.group_sort import GroupSort as GroupSort
from wellposed.layers.group_sort import group_sort as group_sort
from wellposed.layers.group_sort import householder as householder
from wellposed.layers.lben import LBEN as LBEN
from wellposed.layers.mondeq import MonDEQ as MonDEQ
from wellposed.layers.multi_scale_mondeq import MultiScaleMonDEQ as MultiScaleMonDEQ
from wellposed.layers.nemon import NEMON as NEMON
from wellposed.layers.normalize import Normalize as Normalize
from wellposed.layers.orthogonal import OrthogonalDEQ as OrthogonalDEQ
from wellposed.layers.orthogonal_conv import OrthogonalConv2d as OrthogonalConv2d
from wellposed.layers.orthogonal_conv import UnitPool2d as UnitPool2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear as OrthogonalLinear
from wellposed.layers.pcdeq import PcDEQ as PcDEQ
from wellposed.layers.residual import Residual as Residual
from wellposed.layers.sandwich import Sandwich as Sandwich
from wellposed.layers.sll import SLL as SLL
