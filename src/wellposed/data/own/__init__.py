"""Users' own data: arrays, tables and folders of images become the data sets that everything else takes."""

from wellposed.data.own.assembly import from_arrays as from_arrays
from wellposed.data.own.reading import Evaluation as Evaluation
from wellposed.data.own.reading import load_file as load_file
from wellposed.data.own.reading import load_to_evaluate as load_to_evaluate
from wellposed.data.own.reading import source_digest as source_digest
