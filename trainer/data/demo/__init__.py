"""The demo data set: rendered objects of clay, glass and cloth, drawn when it is first used.

64 classes (shape × palette × pattern × material) of 26 pictures each, half of which train, and further training
classes where they are asked for; 64 pixels square, drawn with NumPy and Pillow only.
"""

from hardrank.trainer.data.demo.errors import DemoDamagedError, DemoFolderError, DemoOptionError
from hardrank.trainer.data.demo.picture import picture
from hardrank.trainer.data.demo.reader import load
from hardrank.trainer.data.demo.specification import (
    DemoClass,
    DemoOptions,
    Half,
    Material,
    Nuisance,
    Palette,
    Pattern,
    Shape,
    classes,
)
from hardrank.trainer.data.demo.store import GENERATOR_VERSION, ensure, generate, read_manifest, verify

__all__ = [
    "GENERATOR_VERSION",
    "DemoClass",
    "DemoDamagedError",
    "DemoFolderError",
    "DemoOptionError",
    "DemoOptions",
    "Half",
    "Material",
    "Nuisance",
    "Palette",
    "Pattern",
    "Shape",
    "classes",
    "ensure",
    "generate",
    "load",
    "picture",
    "read_manifest",
    "verify",
]
