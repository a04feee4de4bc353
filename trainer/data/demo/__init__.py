"""The embedded data set: a little collection of things in clay, glass and cloth, drawn when first asked for.

64 classes (shape × palette × pattern × material) of 26 pictures each, 64 pixels square, drawn by numpy and
Pillow alone.
"""

from hardrank.trainer.data.demo.errors import DemoDamagedError, DemoForeignError, DemoOptionError
from hardrank.trainer.data.demo.picture import picture
from hardrank.trainer.data.demo.reader import load
from hardrank.trainer.data.demo.sheet import contact_sheet
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
    "DemoForeignError",
    "DemoOptionError",
    "DemoOptions",
    "Half",
    "Material",
    "Nuisance",
    "Palette",
    "Pattern",
    "Shape",
    "classes",
    "contact_sheet",
    "ensure",
    "generate",
    "load",
    "picture",
    "read_manifest",
    "verify",
]
