"""The classes of the demo set and their attributes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from typing import Final

from hardrank.trainer.data.demo.errors import DemoOptionError


@unique
class Shape(StrEnum):
    """The outline and relief of an object; consecutive pairs are related (see `classes`)."""

    VASE = "vase"
    BOTTLE = "bottle"
    TEAPOT = "teapot"
    MUG = "mug"
    BOWL = "bowl"
    LAMP = "lamp"
    CUSHION = "cushion"
    KITE = "kite"
    BUTTON = "button"
    SHELL = "shell"
    FISH = "fish"
    BUTTERFLY = "butterfly"
    MUSHROOM = "mushroom"
    PEAR = "pear"
    BALLOON = "balloon"
    SAILBOAT = "sailboat"


@unique
class Pattern(StrEnum):
    """How the colors of a palette are laid over an object."""

    DRIP = "drip"
    STRIPES = "stripes"
    DOTS = "dots"
    GINGHAM = "gingham"
    CHEVRONS = "chevrons"
    TERRAZZO = "terrazzo"
    FLOWERS = "flowers"
    MARBLE = "marble"


@unique
class Palette(StrEnum):
    """Three colors that go together, which `palettes.colors` returns."""

    INDIGO = "indigo"
    CORAL = "coral"
    SAGE = "sage"
    MUSTARD = "mustard"
    PLUM = "plum"
    TEAL = "teal"
    TERRACOTTA = "terracotta"
    MIDNIGHT = "midnight"


@unique
class Material(StrEnum):
    """How a surface reflects light."""

    GLAZED = "glazed"
    MATTE = "matte"
    LUSTRE = "lustre"
    GLASS = "glass"


@unique
class Half(StrEnum):
    """The half of the zero-shot split that a class belongs to; also the name of its folder."""

    TRAIN = "train"
    TEST = "test"


MOST_EXTRA_CLASSES: Final = 256
"""Of the combinations that are left, 16 for each shape."""


@dataclass(frozen=True, kw_only=True)
class DemoClass:
    """One class: a shape in a pattern, a palette and a material."""

    shape: Shape
    palette: Palette
    pattern: Pattern
    material: Material
    half: Half

    @property
    def name(self) -> str:
        """A readable name, such as `teapot-teal-dots-glazed`."""
        return f"{self.shape}-{self.palette}-{self.pattern}-{self.material}"


def classes(extra: int = 0) -> tuple[DemoClass, ...]:
    """The 64 classes sorted by name, 32 in each half; then `extra` further training classes.

    The shapes form eight related pairs. In each half, a pair makes four classes, of which

    - two differ in shape alone (same pattern, palette and material),
    - two of the first shape differ in palette and material but not in pattern,
    - two of the second shape differ in pattern and material but not in palette,

    so that no single attribute distinguishes the classes of a half. Each half has every shape twice and every
    pattern, palette and material; for a given shape the patterns and palettes of the two halves are disjoint,
    so that the test half has combinations that training has not seen. The further classes keep to that; each shape has
    as many of them.
    """
    made = [one for half in Half for pair in range(len(Shape) // 2) for one in _pair_classes(pair, half)]
    return (
        *sorted(made, key=lambda one: one.name),
        *(one for shape in Shape for one in _further_classes(shape, made, extra // len(Shape))),
    )


def _further_classes(shape: Shape, known: Sequence[DemoClass], count: int) -> list[DemoClass]:
    """Return training classes of a shape, with patterns and palettes that its test classes do not have."""
    own = [one for one in known if one.shape is shape]
    unseen = [one for one in own if one.half is Half.TEST]
    patterns = [pattern for pattern in Pattern if all(pattern is not one.pattern for one in unseen)]
    palettes = [palette for palette in Palette if all(palette is not one.palette for one in unseen)]
    materials, start = list(Material), list(Shape).index(shape)
    taken = {(one.pattern, one.palette) for one in own}
    made: list[DemoClass] = []
    # There are 7 patterns and 6 palettes, or the reverse: as these are coprime, the diagonal reaches every combination.
    for number in range(len(patterns) * len(palettes)):
        if len(made) == count:
            break
        pattern, palette = patterns[number % len(patterns)], palettes[(number + start) % len(palettes)]
        if (pattern, palette) not in taken:
            taken.add((pattern, palette))
            material = materials[(number + start) % len(materials)]
            made.append(DemoClass(shape=shape, palette=palette, pattern=pattern, material=material, half=Half.TRAIN))
    return made


def _pair_classes(pair: int, half: Half) -> list[DemoClass]:
    shapes, patterns, palettes, materials = list(Shape), list(Pattern), list(Palette), list(Material)
    first, second = shapes[2 * pair], shapes[2 * pair + 1]
    shift = 0 if half is Half.TRAIN else 4

    def make(shape: Shape, pattern_step: int, palette_step: int, material_step: int) -> DemoClass:
        # 1 and 3 are coprime with 8: as the pair runs, every pattern and every palette has its turn.
        return DemoClass(
            shape=shape,
            pattern=patterns[(pair + shift + pattern_step) % len(patterns)],
            palette=palettes[(3 * pair + shift + palette_step) % len(palettes)],
            material=materials[(pair + shift // 2 + material_step) % len(materials)],
            half=half,
        )

    return [make(first, 0, 0, 0), make(second, 0, 0, 0), make(first, 0, 3, 1), make(second, 3, 0, 2)]


@dataclass(frozen=True, kw_only=True)
class Nuisance:
    """How strongly the images of one class vary. With all zero there is one pose and one light."""

    rotation: float = 9.0
    """Largest turn of a standing object in the image plane, degrees; objects lying or aloft turn thrice as far."""
    scale: float = 0.16
    """Largest relative change of size, in [0, 1)."""
    translation: float = 0.1
    """Largest shift of the object's center, as a share of half the image's side."""
    shear: float = 0.07
    """Largest shear, dimensionless."""
    perspective: float = 0.07
    """Largest keystone: relative change of magnification from the center to the rim."""
    form: float = 1.0
    """Strength of the differences in form, spin and camera height; 1 is the designed range."""
    mirror: bool = True
    """Whether half of the objects are mirrored."""
    hue: float = 8.0
    """Largest turn of an object's hues, degrees."""
    tone: float = 0.16
    """Largest relative change of an object's saturation and lightness."""
    exposure: float = 0.5
    """Largest change of exposure, stops (factor 2**exposure)."""
    warmth: float = 0.26
    """Largest relative change between the red and the blue of the light."""
    light: float = 60.0
    """Largest turn of the key light away from above, degrees."""
    texture: float = 0.14
    """Largest relative change of a pattern's size; its phase is free when this is above 0."""
    scene: float = 1.0
    """Strength of the background's texture and color, in [0, 1]."""
    grain: float = 0.008
    """Standard deviation of the film grain, in units of full scale."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Everything that determines the bytes of a demo set, apart from the generator's version."""

    seed: int = 0
    """Seed of every random choice, ≥ 0."""
    images_per_class: int = 26
    """Images of each class, ≥ 1."""
    train_images_per_class: int | None = None
    """Images of each class of the training half, ≥ 1; None for `images_per_class`."""
    extra_train_classes: int | None = None
    """Further classes of the training half, a multiple of 16 up to `MOST_EXTRA_CLASSES`; None for none."""
    side: int = 64
    """Side of the square images, pixels, ≥ 16."""
    nuisance: Nuisance = Nuisance()
    """How strongly the images of a class vary."""

    def __post_init__(self) -> None:
        """Raise `DemoOptionError` for values out of range."""
        for name, least in (("seed", 0), ("images_per_class", 1), ("side", 16)):
            if getattr(self, name) < least:
                raise DemoOptionError(f"demo option {name} is {getattr(self, name)}; give at least {least}.")
        if self.train_images_per_class is not None and self.train_images_per_class < 1:
            raise DemoOptionError(
                f"demo option train_images_per_class is {self.train_images_per_class}; give at least 1."
            )

        extra = self.extra_train_classes or 0
        if not 0 <= extra <= MOST_EXTRA_CLASSES or extra % len(Shape):
            raise DemoOptionError(
                f"demo option extra_train_classes is {extra}; give a multiple of {len(Shape)} up to "
                f"{MOST_EXTRA_CLASSES}."
            )

    def images_of(self, half: Half) -> int:
        """Return the number of images of each class of a half."""
        return (self.train_images_per_class if half is Half.TRAIN else None) or self.images_per_class

    def as_dict(self) -> dict[str, object]:
        """Return plain values, for the manifest; options that are not given are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}
