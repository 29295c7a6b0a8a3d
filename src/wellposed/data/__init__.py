"""Data sets from standard files."""

from wellposed.data.base import Data as Data
from wellposed.data.base import ImageData as ImageData
from wellposed.data.graphs import GraphData as GraphData
from wellposed.data.graphs import load_graphs as load_graphs
from wellposed.data.images import load_images as load_images
