"""Data sets from standard files."""

from wellposed.data.images import ImageData as ImageData
from wellposed.data.images import load_images as load_images
