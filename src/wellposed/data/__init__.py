"""Data sets from standard files."""

from wellposed.data.base import Data as Data
from wellposed.data.base import ImageData as ImageData
from wellposed.data.base import Source as Source
from wellposed.data.base import TensorData as TensorData
from wellposed.data.graphs import GraphData as GraphData
from wellposed.data.graphs import load_graphs as load_graphs
from wellposed.data.images import load_images as load_images
from wellposed.data.own import from_arrays as from_arrays
from wellposed.data.own import load_file as load_file
from wellposed.data.tasks import Classification as Classification
from wellposed.data.tasks import Regression as Regression
from wellposed.data.tasks import Task as Task
from wellposed.data.vectors import VectorData as VectorData
from wellposed.data.vectors import load_vectors as load_vectors
