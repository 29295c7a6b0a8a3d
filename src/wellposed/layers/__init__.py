"""Ordinary ``torch.nn.Module`` layers whose value is an equilibrium."""

from wellposed.layers.equilibrium import Equilibrium as Equilibrium
from wellposed.layers.lben import LBEN as LBEN
from wellposed.layers.mondeq import MonDEQ as MonDEQ
from wellposed.layers.nemon import NEMON as NEMON
from wellposed.layers.normalize import Normalize as Normalize
from wellposed.layers.pcdeq import PcDEQ as PcDEQ
