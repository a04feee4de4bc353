"""The sixteen shapes, each a painter's list of parts, the farthest first.

To add one: a name in `Shape` (two, to keep the pairs) and a function in `SHAPES`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hardrank.trainer.data.demo.fields import smooth, turned
from hardrank.trainer.data.demo.frame import Frame
from hardrank.trainer.data.demo.specification import Shape
from hardrank.trainer.data.demo.surfaces import (
    Paint,
    Part,
    capsule,
    disc,
    ellipse,
    inflated,
    lathe,
    polygon,
    tilted,
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What differs in form between two images of one class."""

    spin: float
    """Turn about the upright axis, in units of the object at its widest."""
    tilt: float
    """Sine of the angle by which the camera looks down, about 0.1 to 0.35."""
    a: float
    """First freedom of the shape, [-1,1]."""
    b: float
    """Second freedom of the shape, [-1,1]."""


def _mouth(f: Frame, form: Form, *, radius: float, height: float, inside: Paint, wall: float = 0.86) -> Iterator[Part]:
    """The opening of a vessel: a lip and, within it, the far wall fading into the dark."""
    v = f.v - height
    lip = inflated(f, ellipse(f.u, v, radius, radius * form.tilt), radius=0.05, paint=Paint.BASE)
    yield tilted(lip, 0.0, 0.3)
    inner = radius * wall
    hole = inflated(f, ellipse(f.u, v, inner, inner * form.tilt), radius=0.02, paint=inside)
    yield replace(hole, shade=np.clip(0.5 + 0.4 * v * (1 / (inner * form.tilt)), 0.12, 1))


def _vase(f: Frame, form: Form) -> Iterator[Part]:
    belly, neck = 0.62 + 0.05 * form.a, 0.21 + 0.03 * form.b
    profile = (
        (-0.92, 0.3),
        (-0.8, 0.36),
        (-0.25, belly),
        (0.08, 0.52),
        (0.45, neck),
        (0.66, neck),
        (0.88, 0.38),
    )
    yield lathe(f, profile, tilt=form.tilt, spin=form.spin, paint=Paint.PATTERN)
    yield from _mouth(f, form, radius=0.38, height=0.88, inside=Paint.BASE)


def _bottle(f: Frame, form: Form) -> Iterator[Part]:
    wide = 0.4 + 0.03 * form.a
    shoulder = 0.2 + 0.06 * form.b
    profile = (
        (-0.92, wide - 0.05),
        (-0.84, wide),
        (shoulder - 0.1, wide),
        (shoulder + 0.25, 0.14),
        (0.74, 0.12),
    )
    yield lathe(f, ((0.7, 0.09), (0.98, 0.12)), tilt=form.tilt, spin=0.0, paint=Paint.WOOD)
    yield lathe(f, profile, tilt=form.tilt, spin=form.spin, paint=Paint.PATTERN)
    yield lathe(f, ((0.68, 0.16), (0.78, 0.16)), tilt=form.tilt, spin=0.0, paint=Paint.THIRD)


def _teapot(f: Frame, form: Form) -> Iterator[Part]:
    lift = 0.05 * form.b
    ring = np.abs(ellipse(f.u - 0.6, f.v + 0.08, 0.3, 0.34)) - 0.065
    yield inflated(f, ring, radius=0.07, paint=Paint.THIRD)
    lower = capsule(f, (-0.38, -0.32), (-0.72, 0.06 + lift), 0.2, 0.11)
    upper = capsule(f, (-0.72, 0.06 + lift), (-0.93, 0.36 + lift), 0.11, 0.075)
    yield inflated(f, np.minimum(lower, upper), radius=0.16, paint=Paint.BASE)
    wide = 0.64 + 0.03 * form.a
    body = ((-0.68, 0.34), (-0.62, 0.4), (-0.35, 0.6), (-0.1, wide), (0.15, 0.58), (0.33, 0.36), (0.4, 0.32))
    yield lathe(f, body, tilt=form.tilt, spin=form.spin, paint=Paint.PATTERN)
    lid = ((0.36, 0.36), (0.42, 0.35), (0.52, 0.24), (0.6, 0.05))
    yield lathe(f, lid, tilt=form.tilt, spin=form.spin, paint=Paint.SECOND)
    yield inflated(f, disc(f.u, f.v - 0.65, 0.095), radius=0.1, paint=Paint.THIRD)


def _mug(f: Frame, form: Form) -> Iterator[Part]:
    wide = 0.5 + 0.03 * form.a
    ring = np.abs(ellipse(f.u - wide - 0.08, f.v + 0.02, 0.27, 0.34)) - 0.075
    yield inflated(f, ring, radius=0.08, paint=Paint.THIRD)
    profile = ((-0.72, wide - 0.08), (-0.62, wide), (0.3, wide), (0.66, wide + 0.02 + 0.03 * form.b))
    yield lathe(f, profile, tilt=form.tilt, spin=form.spin, paint=Paint.PATTERN)
    brim = wide + 0.02 + 0.03 * form.b
    yield from _mouth(f, form, radius=brim, height=0.66, inside=Paint.BASE)
    low = 0.66 - 0.35 * form.tilt
    tea = np.maximum(
        ellipse(f.u, f.v - low, brim * 0.8, brim * 0.8 * form.tilt),
        ellipse(f.u, f.v - 0.66, brim * 0.86, brim * 0.86 * form.tilt),
    )
    yield inflated(f, tea, radius=0.02, paint=Paint.WOOD)


def _bowl(f: Frame, form: Form) -> Iterator[Part]:
    brim, height = 0.84 + 0.04 * form.a, 0.22 + 0.06 * form.b
    profile = ((-0.66, 0.3), (-0.58, 0.32), (-0.5, 0.42), (-0.2, 0.7), (height, brim))
    open_wide = replace(form, tilt=form.tilt + 0.08)
    yield lathe(f, profile, tilt=open_wide.tilt, spin=form.spin, paint=Paint.PATTERN)
    yield from _mouth(f, open_wide, radius=brim, height=height, inside=Paint.SECOND, wall=0.92)


def _lamp(f: Frame, form: Form) -> Iterator[Part]:
    foot = (
        (-0.95, 0.36),
        (-0.88, 0.34),
        (-0.82, 0.1),
        (-0.55, 0.15 + 0.05 * form.b),
        (-0.3, 0.05),
        (0.1, 0.045),
    )
    yield lathe(f, foot, tilt=form.tilt, spin=0.0, paint=Paint.THIRD)
    top = 0.34 + 0.05 * form.a
    shade = ((-0.16, 0.7), (0.82, top))
    yield replace(lathe(f, shade, tilt=form.tilt, spin=form.spin, paint=Paint.PATTERN), glow=0.3)
    rim = inflated(f, ellipse(f.u, f.v - 0.82, top, top * form.tilt), radius=0.04, paint=Paint.BASE)
    yield replace(rim, glow=0.9)


def _cushion(f: Frame, form: Form) -> Iterator[Part]:
    wide, pinch = 0.76 + 0.03 * form.a, 0.13 + 0.03 * form.b
    u, v = np.abs(f.u), np.abs(f.v)
    far, near = np.maximum(u, v), np.minimum(u, v) * (1 / wide)
    outline = far - wide + pinch * (1 - near * near)
    for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        yield inflated(f, disc(f.u - x * wide, f.v - y * wide, 0.09), radius=0.09, paint=Paint.SECOND)
    yield inflated(f, outline - 0.035, radius=0.05, paint=Paint.THIRD)
    pillow = f.to_image(0.35 * f.u + 1.1 * f.u * f.u * f.u, 0.35 * f.v + 1.1 * f.v * f.v * f.v)
    yield tilted(inflated(f, outline, radius=0.09, paint=Paint.PATTERN), *pillow)


def _kite(f: Frame, form: Form) -> Iterator[Part]:
    sway = f.u - 0.13 * np.sin(7.5 * f.v + 1.6 + 1.2 * form.a) * np.clip(-0.45 - f.v, 0, 0.3) * (1 / 0.3)
    yield inflated(f, np.maximum(np.abs(sway) - 0.022, np.abs(f.v + 0.75) - 0.25), radius=0.03, paint=Paint.INK)
    for height, paint in ((-0.72, Paint.SECOND), (-0.92, Paint.THIRD)):
        at = 0.13 * math.sin(7.5 * height + 1.6 + 1.2 * form.a) * min(-0.45 - height, 0.3) / 0.3
        bow = np.abs(f.v - height) - 0.035 - 0.45 * np.abs(f.u - at)
        yield inflated(f, np.maximum(bow, np.abs(f.u - at) - 0.13), radius=0.06, paint=paint)
    wide, shoulder = 0.6 + 0.04 * form.b, 0.3
    sail = polygon(f, ((0.0, -0.55), (wide, shoulder), (0.0, 0.92), (-wide, shoulder)))
    yield inflated(f, sail, radius=0.03, paint=Paint.THIRD)
    billow = f.to_image(0.55 * f.u + 0.25 * np.sign(f.u), 0.4 * (f.v - shoulder))
    yield tilted(inflated(f, sail + 0.035, radius=0.03, paint=Paint.PATTERN), *billow)
    spars = np.minimum(np.abs(f.u), np.abs(f.v - shoulder + 0.09 * f.u * f.u)) - 0.016
    yield inflated(f, np.maximum(spars, sail), radius=0.03, paint=Paint.INK)


def _button(f: Frame, form: Form) -> Iterator[Part]:
    radius = np.hypot(f.u, f.v)
    rim = 0.64 + 0.03 * form.a
    part = inflated(f, radius - 0.84, radius=0.07, paint=Paint.PATTERN)
    lean = np.clip((radius - rim) * 9, -1, 1) * smooth((radius - rim + 0.16) * 12) * 0.75
    x, y = f.to_image(f.u / (radius + 1e-6) * lean, f.v / (radius + 1e-6) * lean)
    yield replace(tilted(part, x, y), shade=1 - 0.3 * smooth(1 - np.abs(radius - rim + 0.16) * 12))
    gap = 0.17 + 0.02 * form.b
    u, v = np.abs(f.u) - gap, np.abs(f.v) - gap
    yield inflated(f, disc(u, v, 0.1), radius=0.02, paint=Paint.INK)
    cross = np.minimum(capsule(f, (-gap, -gap), (gap, gap), 0.045), capsule(f, (-gap, gap), (gap, -gap), 0.045))
    yield inflated(f, cross, radius=0.05, paint=Paint.THIRD)


def _shell(f: Frame, form: Form) -> Iterator[Part]:
    for side in (-1.0, 1.0):
        ear = ellipse(f.u - side * 0.26, f.v + 0.72, 0.27, 0.13)
        yield inflated(f, ear, radius=0.1, paint=Paint.SECOND)
    up = f.v + 0.84
    radius, angle = np.hypot(f.u, up), np.arctan2(f.u, up)
    ribs = 13.0
    reach = (1.7 + 0.05 * form.a) - 0.62 * angle * angle + 0.03 * np.cos(ribs * angle)
    opening = 0.95 + 0.05 * form.b
    outline = np.maximum(radius - reach, (np.abs(angle) - opening) * np.minimum(radius, 1.0) * 0.9)
    part = inflated(f, outline, radius=0.75, paint=Paint.PATTERN, s=angle * 1.1, t=radius - 0.9)
    wave = -0.75 * np.sin(ribs * angle) * smooth(radius * 1.2)
    x, y = f.to_image(np.cos(angle) * wave, -np.sin(angle) * wave)
    yield replace(tilted(part, x, y), shade=0.87 + 0.13 * np.cos(ribs * angle))


def _fish(f: Frame, form: Form) -> Iterator[Part]:
    bend = 0.12 * form.a * np.clip(-f.u, 0, 1)
    g = replace(f, v=f.v + bend * np.clip(-f.u, 0, 1))
    w = np.abs(g.v)
    tail = np.maximum(ellipse(*turned(g.u + 0.7, w - 0.2, math.radians(-40)), 0.36, 0.17), -0.95 - g.u)
    rays = 0.5 * np.sin(26 * g.v / (np.abs(g.u + 0.3) + 0.25))
    yield tilted(inflated(g, tail, radius=0.1, paint=Paint.THIRD), *f.to_image(0 * rays, rays))
    for height, at, size in ((0.36, 0.02, 0.3), (-0.34, 0.08, 0.2)):
        fin = ellipse(g.u - at + 0.4 * np.sign(height) * (g.v - height), g.v - height, size, 0.2)
        yield inflated(g, fin, radius=0.1, paint=Paint.SECOND)
    high = 0.43 + 0.04 * form.b
    body = ellipse(g.u - 0.14, g.v, 0.72, high)
    yield inflated(g, body, radius=high, paint=Paint.PATTERN)
    face = np.maximum(body + 0.005, 0.43 - g.u - 0.35 * g.v * g.v)
    yield replace(inflated(g, body, radius=high, paint=Paint.BASE), cover=np.clip(0.5 - face / f.pixel, 0, 1))
    yield inflated(g, ellipse(g.u - 0.2, g.v + 0.06 + 0.3 * (g.u - 0.2), 0.15, 0.08), radius=0.08, paint=Paint.THIRD)
    yield inflated(g, disc(g.u - 0.6, g.v - 0.1, 0.1), radius=0.1, paint=Paint.IVORY)
    yield inflated(g, disc(g.u - 0.62, g.v - 0.1, 0.06), radius=0.06, paint=Paint.INK)


def _butterfly(f: Frame, form: Form) -> Iterator[Part]:
    u = np.abs(f.u) * (1 / (0.94 + 0.08 * form.a))
    side = np.sign(f.u)
    for (cu, cv), (a, b), degrees in (
        ((0.38, -0.4), (0.42, 0.3), -50.0),
        ((0.5, 0.3), (0.56, 0.36), 38.0 + 6 * form.b),
    ):
        wing = ellipse(*turned(u - cu, f.v - cv, math.radians(degrees)), a, b)
        fold = f.to_image(-0.45 * side + 0.35 * side * u, 0.1 + 0 * u)
        yield tilted(inflated(f, wing, radius=0.04, paint=Paint.THIRD), *fold)
        yield tilted(inflated(f, wing + 0.06, radius=0.05, paint=Paint.PATTERN, s=u), *fold)
    bent = u - 0.03 - 0.3 * np.clip(f.v - 0.4, 0, 1)
    feeler = np.maximum(np.abs(bent) - 0.02, np.abs(f.v - 0.62) - 0.24)
    yield inflated(f, np.minimum(feeler, disc(u - 0.17, f.v - 0.86, 0.045)), radius=0.03, paint=Paint.INK)
    yield inflated(f, ellipse(f.u, f.v + 0.08, 0.085, 0.5), radius=0.08, paint=Paint.INK)
    yield inflated(f, disc(f.u, f.v - 0.42, 0.1), radius=0.1, paint=Paint.INK)


def _mushroom(f: Frame, form: Form) -> Iterator[Part]:
    thick = 0.24 + 0.04 * form.a
    stem = ((-0.9, thick + 0.04), (-0.78, thick + 0.07), (-0.4, thick - 0.02), (0.2, thick - 0.04))
    part = lathe(f, stem, tilt=form.tilt, spin=0.0, paint=Paint.IVORY)
    yield replace(part, shade=1 - 0.55 * smooth((f.v + 0.42) * 3.2))
    skirt = ellipse(f.u, f.v + 0.22, 0.33, 0.09)
    yield inflated(f, skirt, radius=0.08, paint=Paint.IVORY)
    wide = 0.8 + 0.05 * form.b
    cap = ((-0.1, wide - 0.06), (-0.02, wide), (0.2, wide - 0.06), (0.5, 0.58), (0.72, 0.32), (0.8, 0.02))
    yield lathe(f, cap, tilt=form.tilt, spin=form.spin, paint=Paint.PATTERN)


def _pear(f: Frame, form: Form) -> Iterator[Part]:
    yield inflated(f, capsule(f, (0.0, 0.6), (0.1 + 0.06 * form.a, 0.96), 0.045, 0.06), radius=0.05, paint=Paint.WOOD)
    leaf = ellipse(*turned(f.u - 0.32, f.v - 0.76, math.radians(24 + 8 * form.b)), 0.28, 0.12)
    yield inflated(f, leaf, radius=0.16, paint=Paint.SECOND)
    wide = 0.65 + 0.04 * form.b
    body = (
        (-0.86, 0.12),
        (-0.8, 0.34),
        (-0.62, 0.56),
        (-0.36, wide),
        (-0.05, 0.53),
        (0.3, 0.32),
        (0.58, 0.24),
        (0.74, 0.03),
    )
    yield lathe(f, body, tilt=form.tilt, spin=form.spin, paint=Paint.PATTERN)


def _balloon(f: Frame, form: Form) -> Iterator[Part]:
    for side in (-1.0, 1.0):
        yield inflated(f, capsule(f, (side * 0.12, -0.74), (side * 0.2, -0.28), 0.016), radius=0.02, paint=Paint.INK)
    basket = np.maximum(np.abs(f.u) - 0.15 - 0.15 * (f.v + 0.84), np.abs(f.v + 0.84) - 0.12)
    weave = 0.8 + 0.2 * np.sign(np.sin(48 * f.u) * np.sin(48 * f.v))
    yield replace(inflated(f, basket, radius=0.1, paint=Paint.WOOD), shade=weave)
    wide = 0.7 + 0.03 * form.a
    envelope = (
        (-0.38, 0.17),
        (-0.2, 0.33),
        (0.1, 0.6),
        (0.38, wide),
        (0.62, 0.62),
        (0.82, 0.4),
        (0.93, 0.18),
        (0.97, 0.02),
    )
    # A balloon is seen from below.
    part = lathe(f, envelope, tilt=0.05 - form.tilt, spin=form.spin, paint=Paint.PATTERN)
    gores = np.cos((part.s - form.spin) * (16 / wide))
    yield replace(part, shade=0.88 + 0.12 * np.abs(gores))
    yield lathe(f, ((-0.42, 0.15), (-0.34, 0.2)), tilt=0.05 - form.tilt, spin=0.0, paint=Paint.THIRD)


def _sailboat(f: Frame, form: Form) -> Iterator[Part]:
    yield inflated(f, capsule(f, (0.0, -0.6), (0.0, 0.94), 0.03), radius=0.03, paint=Paint.WOOD)
    flag = polygon(f, ((0.0, 0.8), (0.24, 0.88), (0.0, 0.96)))
    yield inflated(f, flag, radius=0.04, paint=Paint.THIRD)
    for side, foot, peak in ((1.0, 0.68 + 0.04 * form.a, 0.78), (-1.0, 0.52 + 0.04 * form.b, 0.6)):
        u = f.u * side - 0.05
        g = replace(f, u=u)
        sail = np.maximum(
            polygon(g, ((0.0, -0.36), (foot, -0.36), (0.0, peak))), np.hypot(u + 0.6, f.v + 0.35) - 0.6 - foot
        )
        x, y = f.to_image(side * (0.75 * u - 0.05), 0.15 + 0 * u)
        yield tilted(inflated(f, sail, radius=0.04, paint=Paint.PATTERN), x, y)
    bow = 0.16 * (f.u + 0.1) * (f.u + 0.1)
    hull = np.maximum(np.hypot(f.u * 0.82, (f.v + 0.42) * 1.35) - 0.66, f.v + 0.46 - bow)
    yield inflated(f, hull, radius=0.3, paint=Paint.THIRD)
    strake = np.maximum(hull, np.abs(f.v + 0.52 - bow) - 0.035)
    yield inflated(f, strake, radius=0.05, paint=Paint.SECOND)


SHAPES: Mapping[Shape, Callable[[Frame, Form], Iterator[Part]]] = {
    Shape.VASE: _vase,
    Shape.BOTTLE: _bottle,
    Shape.TEAPOT: _teapot,
    Shape.MUG: _mug,
    Shape.BOWL: _bowl,
    Shape.LAMP: _lamp,
    Shape.CUSHION: _cushion,
    Shape.KITE: _kite,
    Shape.BUTTON: _button,
    Shape.SHELL: _shell,
    Shape.FISH: _fish,
    Shape.BUTTERFLY: _butterfly,
    Shape.MUSHROOM: _mushroom,
    Shape.PEAR: _pear,
    Shape.BALLOON: _balloon,
    Shape.SAILBOAT: _sailboat,
}
