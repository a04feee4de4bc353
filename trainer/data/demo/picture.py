"""One image: draw the random values, pose the object, light it, compose it with a background."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from hardrank.trainer.data.demo.backgrounds import Background, scene
from hardrank.trainer.data.demo.fields import Field
from hardrank.trainer.data.demo.frame import Frame, Pose, frame, plane
from hardrank.trainer.data.demo.materials import SURFACES, Light, opacity, shaded
from hardrank.trainer.data.demo.palettes import colors, graded, linear
from hardrank.trainer.data.demo.patterns import PATTERNS
from hardrank.trainer.data.demo.shapes import SHAPES, Form
from hardrank.trainer.data.demo.specification import DemoClass, Nuisance, Pattern, Shape
from hardrank.trainer.data.demo.surfaces import Paint, Part

SUPERSAMPLING = 3
"""Samples along each side of a pixel."""

_STANDING = (
    Background.TABLETOP,
    Background.TABLETOP,
    Background.STUDIO,
    Background.PAPER,
    Background.BOKEH,
    Background.WOOD,
)
_LYING = (Background.WOOD, Background.CLOTH, Background.PAPER, Background.STUDIO, Background.BOKEH)
_ALOFT = (Background.SKY, Background.SKY, Background.STUDIO, Background.BOKEH, Background.PAPER)
_SCENES: Mapping[Shape, tuple[Background, ...]] = {
    Shape.CUSHION: _LYING,
    Shape.BUTTON: _LYING,
    Shape.SHELL: _LYING,
    Shape.FISH: _LYING,
    Shape.BUTTERFLY: _LYING,
    Shape.KITE: _ALOFT,
    Shape.BALLOON: _ALOFT,
}
_PLAIN: Mapping[Paint, str] = {Paint.WOOD: "8a5a34", Paint.INK: "2a2326", Paint.IVORY: "f4ead6"}


def picture(which: DemoClass, *, side: int, nuisance: Nuisance, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return one sRGB image (side, side, 3) of a class; all random values come from `rng`."""
    scenes = _SCENES.get(which.shape, _STANDING)
    standing = scenes is _STANDING
    looked = frame(_pose(nuisance, standing, rng), side * SUPERSAMPLING)
    light = _light(nuisance, rng)
    rgb, alpha = _object(which, looked, nuisance, light, rng)
    rgb, alpha = _averaged(rgb, side), _averaged(alpha[None], side)[0]
    behind = scene(scenes[rng.integers(len(scenes))], side, nuisance.scene, rng)
    behind = behind * (np.array(light.color, dtype=np.float32) * 0.7 + np.array(light.ambient) * 0.6)[:, None, None]
    behind = behind * (1 - _shadow(alpha, light, standing, rng))[None]
    return _developed(rgb + behind * (1 - alpha), nuisance, rng)


def _pose(nuisance: Nuisance, standing: bool, rng: np.random.Generator) -> Pose:
    def up_to(most: float) -> float:
        return float(rng.uniform(-1, 1)) * most

    return Pose(
        turn=math.radians(up_to(nuisance.rotation * (1 if standing else 3))),
        scale=0.84 * (1 + up_to(nuisance.scale)),
        center=(up_to(nuisance.translation), up_to(nuisance.translation)),
        shear=up_to(nuisance.shear),
        keystone=(up_to(nuisance.perspective), up_to(nuisance.perspective)),
        mirrored=bool(rng.random() < 0.5) and nuisance.mirror,
    )


def _light(nuisance: Nuisance, rng: np.random.Generator) -> Light:
    angle = math.radians(90 + rng.uniform(-1, 1) * nuisance.light)
    height = math.radians(rng.uniform(32, 58))
    strength = 2.0 ** (rng.uniform(-1, 1) * nuisance.exposure)
    warm = rng.uniform(-1, 1) * nuisance.warmth
    fill = strength * rng.uniform(0.3, 0.5)
    key = 1.15 * strength
    return Light(
        direction=(math.cos(angle) * math.cos(height), math.sin(angle) * math.cos(height), math.sin(height)),
        color=(key * (1 + 0.6 * warm), key, key * (1 - warm)),
        ambient=(fill * (0.95 + 0.3 * warm), fill, fill * (1.08 - 0.5 * warm)),
    )


def _object(
    which: DemoClass, looked: Frame, nuisance: Nuisance, light: Light, rng: np.random.Generator
) -> tuple[Field, Field]:
    """Premultiplied light (3,S,S) and opacity (S,S) of the lit object."""
    form = Form(
        spin=float(rng.uniform(0, 8)) if nuisance.form else 0.0,
        tilt=0.23 + 0.1 * nuisance.form * float(rng.uniform(-1, 1)),
        a=nuisance.form * float(rng.uniform(-1, 1)),
        b=nuisance.form * float(rng.uniform(-1, 1)),
    )
    three = graded(
        colors(which.palette),
        hue=rng.uniform(-1, 1) * nuisance.hue,
        saturation=1 + rng.uniform(-1, 1) * nuisance.tone,
        lightness=1 + rng.uniform(-1, 1) * nuisance.tone,
    )
    plain = {Paint.BASE: three[0], Paint.SECOND: three[1], Paint.THIRD: three[2]}
    plain |= {paint: np.array(linear(code), dtype=np.float32) for paint, code in _PLAIN.items()}
    size = 1 + rng.uniform(-1, 1) * nuisance.texture
    phase = (rng.uniform(0, 4), rng.uniform(0, 4)) if nuisance.texture else (0.0, 0.0)

    shape = looked.u.shape
    layers = np.zeros((8, *shape), dtype=np.float32)  # albedo ×3, normal ×3, shade, glow
    layers[5], layers[6] = 1, 1
    cover = np.zeros(shape, dtype=np.float32)
    for part in SHAPES[which.shape](looked, form):
        box = _box(part.cover)
        covered = part.cover[box]
        if part.paint is Paint.PATTERN:
            color = _patterned(which.pattern, part, box, three, size, phase)
        else:
            color = plain[part.paint][:, None, None]
        shade = 1.0 if part.shade is None else part.shade[box]
        under = layers[:, *box]
        under[:3] += (color - under[:3]) * covered
        for axis in range(3):
            under[3 + axis] += (part.normal[axis][box] - under[3 + axis]) * covered
        under[6] += (shade - under[6]) * covered
        under[7] += (part.glow - under[7]) * covered
        cover[box] += (1 - cover[box]) * covered

    box = _box(cover)
    surface = SURFACES[which.material]
    normal = (layers[3][box], layers[4][box], layers[5][box])
    glow = layers[7][box] if layers[7].any() else None
    light_out = np.zeros((3, *shape), dtype=np.float32)
    alpha = np.zeros(shape, dtype=np.float32)
    alpha[box] = cover[box] * opacity(normal, surface)
    light_out[:, *box] = shaded(layers[:3, *box], normal, layers[6][box], glow, light, surface) * alpha[box]
    return light_out, alpha


def _box(cover: Field) -> tuple[slice, slice]:
    """The rows and columns in which anything is covered; most parts are small, and the rest is not painted."""
    rows, columns = np.flatnonzero(cover.max(axis=1)), np.flatnonzero(cover.max(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _patterned(
    pattern: Pattern,
    part: Part,
    box: tuple[slice, slice],
    three: Field,
    size: float,
    phase: tuple[float, float],
) -> Field:
    # The glaze that drips from the top must start there, wherever its drops fall.
    rise = 0.06 * (phase[1] - 2) if pattern is Pattern.DRIP else phase[1]
    second, third = PATTERNS[pattern](part.s[box] * (1 / size) + phase[0] + 8, part.t[box] * (1 / size) + rise)
    base, two, three_ = three[:, :, None, None]
    color: Field = base + (two - base) * second
    color += (three_ - color) * third
    return color


def _averaged(samples: Field, side: int) -> Field:
    averaged: Field = samples.reshape(len(samples), side, SUPERSAMPLING, side, SUPERSAMPLING).mean(axis=(2, 4))
    return averaged


def _shadow(alpha: Field, light: Light, standing: bool, rng: np.random.Generator) -> Field:
    """How much light the object takes from each place of the scene, (S,S) in [0,1]."""
    side = len(alpha)
    mask = Image.fromarray((alpha * 255).astype(np.uint8))
    across = -light.direction[0]
    rows = np.flatnonzero(alpha.max(axis=1) > 0.3)
    foot = int(rows[-1]) if len(rows) else side
    if standing:
        # Laid on the table: squashed towards the foot, and slanted away from the light.
        squash = 0.32
        slant = 1.1 * across
        lean = (1.0, slant / squash, -slant / squash * foot, 0.0, 1 / squash, foot * (1 - 1 / squash))
    else:
        away = side * (0.04 + 0.05 * float(rng.random()))
        lean = (1.0, 0.0, -across * away * 1.5, 0.0, 1.0, -light.direction[1] * away)
    cast = mask.transform(mask.size, Image.Transform.AFFINE, lean, Image.Resampling.BILINEAR)
    blurred = cast.filter(ImageFilter.GaussianBlur(side * 0.03))
    dark = np.asarray(blurred, dtype=np.float32) * (0.5 / 255)
    if standing and len(rows):
        x, y = plane(side)
        columns = np.flatnonzero(alpha[max(foot - 3, 0) : foot + 1].max(axis=0) > 0.3)
        center = (float(columns.mean()) + 0.5) * 2 / side - 1
        half = max(len(columns) / side, 0.1) * 1.25
        reach = np.hypot((x - center) / half, (y - (1 - (foot - 0.5) * 2 / side)) / 0.1)
        dark = np.maximum(dark, 0.6 * np.clip(1.25 - reach, 0, 1))
    return dark


def _developed(light: Field, nuisance: Nuisance, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Vignette, a soft shoulder for the brightest tones, sRGB, grain: (3,S,S) linear to (S,S,3) bytes."""
    side = light.shape[1]
    x, y = plane(side)
    light = light * (1 - 0.12 * (x * x + y * y))
    light = np.where(light > 0.7, 0.7 + 0.3 * np.tanh((light - 0.7) * (1 / 0.5)), np.maximum(light, 0))
    tone = np.where(light > 0.0031308, 1.055 * np.maximum(light, 0.001) ** (1 / 2.4) - 0.055, 12.92 * light)
    tone = tone + rng.standard_normal((1, side, side), dtype=np.float32) * nuisance.grain
    developed: npt.NDArray[np.uint8] = (np.clip(tone, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return developed
