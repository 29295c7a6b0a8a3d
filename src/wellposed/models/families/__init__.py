"""The families that can be trained by name: their hyper-parameters, and how to build a network from them."""

from wellposed.models.families.base import Family as Family
from wellposed.models.families.convolutional import LBENConvFamily, MonDEQConvFamily, MonDEQMultiFamily, NEMONConvFamily
from wellposed.models.families.equilibrium import LBENFamily, MonDEQFamily, NEMONFamily, OrthogonalFamily
from wellposed.models.families.explicit import (
    CayleyFamily,
    ConvolutionalFamily,
    DEQFamily,
    FeedForwardFamily,
    SandwichFamily,
    SLLFamily,
)
from wellposed.models.families.graph import IGNNFamily
from wellposed.models.families.orthogonal_convolutional import OrthogonalConvFamily
from wellposed.models.families.positive import PcDEQ1Family, PcDEQ2Family
from wellposed.models.families.positive_convolutional import PcDEQConvFamily, PcDEQMultiFamily

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        MonDEQFamily, LBENFamily, NEMONFamily, PcDEQ1Family, PcDEQ2Family, OrthogonalFamily, IGNNFamily, MonDEQConvFamily,
        MonDEQMultiFamily, LBENConvFamily, NEMONConvFamily, PcDEQConvFamily, PcDEQMultiFamily, OrthogonalConvFamily, DEQFamily,
        FeedForwardFamily, ConvolutionalFamily, SandwichFamily, SLLFamily, CayleyFamily,
    )
}  # fmt: skip
