"""Parts of objects: signed distances, surfaces of revolution and inflated outlines.

Signed distances are negative inside, in units of the object.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from hardrank.trainer.data.demo.fields import Field
from hardrank.trainer.data.demo.frame import Frame


class Paint(Enum):
    """The color of a part."""

    PATTERN = auto()
    BASE = auto()
    SECOND = auto()
    THIRD = auto()
    WOOD = auto()
    INK = auto()
    IVORY = auto()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One visible piece of an object; all fields (S,S)."""

    cover: Field
    """Share of the sample that the part covers, [0,1]."""
    normal: tuple[Field, Field, Field]
    """Unit normal in the image: right, up, to the viewer."""
    s: Field
    """Coordinate of the pattern around or across the part, in units of the object."""
    t: Field
    """Coordinate of the pattern up the part."""
    paint: Paint
    shade: Field | None = None
    """Light that reaches the surface, [0,1]: folds, ribs, the inside of a vessel."""
    glow: float = 0.0
    """Light that it emits, as a share of its color."""


def disc(u: Field, v: Field, radius: float) -> Field:
    """Distance to a circle about the origin."""
    return np.hypot(u, v) - radius


def ellipse(u: Field, v: Field, a: float, b: float) -> Field:
    """About the distance to an ellipse with half axes a and b; exact on the outline only."""
    distance: Field = (np.hypot(u * (1 / a), v * (1 / b)) - 1) * min(a, b)
    return distance


def capsule(
    f: Frame,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    end_radius: float | None = None,
) -> Field:
    """Distance to a stroke from `start` to `end`, which may taper."""
    du, dv = end[0] - start[0], end[1] - start[1]
    pu, pv = f.u - start[0], f.v - start[1]
    along = np.clip((pu * du + pv * dv) * (1 / (du * du + dv * dv)), 0, 1)
    taper = 0.0 if end_radius is None else end_radius - radius
    return np.hypot(pu - along * du, pv - along * dv) - (radius + taper * along)


def polygon(f: Frame, corners: Sequence[tuple[float, float]]) -> Field:
    """Distance to a convex polygon with corners anticlockwise; outside a corner it is a lower bound."""
    worst: Field | None = None
    for (u0, v0), (u1, v1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = float(np.hypot(u1 - u0, v1 - v0))
        a, b = (v1 - v0) / length, (u0 - u1) / length
        side = f.u * a + f.v * b - (u0 * a + v0 * b)
        worst = side if worst is None else np.maximum(worst, side)
    assert worst is not None
    return worst


def inflated(
    f: Frame, distance: Field, *, radius: float, paint: Paint, s: Field | None = None, t: Field | None = None
) -> Part:
    """A part with the outline distance = 0 and a rim rounded with `radius`, flat farther inside."""
    x, y = slopes(distance)
    lean = np.clip(distance * (1 / radius) + 1, 0, 1)
    lean_per_slope = lean / (np.hypot(x, y) + 1e-9)
    return Part(
        cover=np.clip(0.5 - distance * (1 / f.pixel), 0, 1),
        normal=(x * lean_per_slope, y * lean_per_slope, np.sqrt(1 - lean * lean)),
        s=f.u if s is None else s,
        t=f.v if t is None else t,
        paint=paint,
    )


def slopes(height: Field) -> tuple[Field, Field]:
    """Differences of a field to the right and upwards, per two samples."""
    x, y = np.zeros_like(height), np.zeros_like(height)
    np.subtract(height[:, 2:], height[:, :-2], out=x[:, 1:-1])
    np.subtract(height[:-2], height[2:], out=y[1:-1])
    return x, y


def tilted(part: Part, x: Field | float, y: Field | float) -> Part:
    """The part with its normals pushed by (x, y) in the image and made unit length again."""
    nx, ny, nz = part.normal[0] + x, part.normal[1] + y, part.normal[2]
    unit = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-9)
    return replace(part, normal=(nx * unit, ny * unit, nz * unit))


def lathe(
    f: Frame,
    profile: Sequence[tuple[float, float]],
    *,
    tilt: float,
    spin: float,
    paint: Paint,
) -> Part:
    """A surface of revolution about the line u = 0.

    `profile` are (height, radius) pairs, lowest first, joined smoothly. The camera looks down by the angle
    whose sine is `tilt`: a point at height y and depth z is seen at v = y - tilt · z, which is solved for y here.
    `spin` turns the surface about its axis (in units of the object at the widest place).
    """
    heights, radii = np.array(profile, dtype=np.float64).T
    bottom, top = float(heights[0]), float(heights[-1])
    table, slope = _smooth_profile(heights, radii)
    per_unit = (len(table) - 1) / (top - bottom)
    square = f.u * f.u
    y = f.v
    for _ in range(4):
        radius = np.take(table, ((y - bottom) * per_unit).astype(np.int32), mode="clip")
        depth = np.sqrt(np.maximum(radius * radius - square, 0))
        # The mean with the last guess keeps flaring profiles, where the plain iteration overshoots, in hand.
        y = 0.4 * y + 0.6 * (f.v + tilt * depth)
    at = ((y - bottom) * per_unit).astype(np.int32)
    radius = np.take(table, at, mode="clip")
    across = np.clip(f.u / np.maximum(radius, 1e-3), -1, 1)
    toward = np.sqrt(1 - across * across)
    rise = -np.take(slope, at, mode="clip")
    unit = 1 / np.sqrt(1 + rise * rise)
    cos = float(np.sqrt(1 - tilt * tilt))
    up = (rise * cos - toward * tilt) * unit
    nx, ny = f.to_image(across * unit, up)
    per_pixel = 1 / f.pixel
    cover = np.clip((radius - np.abs(f.u)) * per_pixel + 0.5, 0, 1)
    cover = cover * np.clip((np.minimum(top - y, y - bottom)) * per_pixel + 0.5, 0, 1)
    return Part(
        cover=cover,
        normal=(nx, ny, np.maximum((rise * tilt + toward * cos) * unit, 0.02)),
        s=np.arcsin(across) * float(radii.max()) + spin,
        t=y,
        paint=paint,
    )


def _smooth_profile(heights: Field, radii: Field, cells: int = 256) -> tuple[Field, Field]:
    """Radii at `cells` even heights, corners rounded, and their slopes."""
    even = np.linspace(heights[0], heights[-1], cells)
    # Cubic Hermite pieces whose slopes are limited as by Fritsch and Carlson, so that nothing bulges unasked.
    rise = np.diff(radii) / np.diff(heights)
    inner = 2 * rise[1:] * rise[:-1] / np.where(rise[1:] * rise[:-1] > 0, rise[1:] + rise[:-1], np.inf)
    tangent = np.concatenate([rise[:1], inner, rise[-1:]])
    piece = np.clip(np.searchsorted(heights, even, side="right") - 1, 0, len(rise) - 1)
    width = np.diff(heights)[piece]
    x = (even - heights[piece]) / width
    rest = 1 - x
    radius = radii[piece] * rest * rest * (1 + 2 * x) + radii[piece + 1] * x * x * (1 + 2 * rest)
    radius += width * x * rest * (tangent[piece] * rest - tangent[piece + 1] * x)
    window = np.hanning(17)
    window /= window.sum()
    padded = np.pad(radius, 8, mode="reflect", reflect_type="odd")
    radius = np.maximum(np.convolve(padded, window, mode="valid"), 1e-3)
    slope = np.clip(np.gradient(radius, even), -6, 6)
    return radius.astype(np.float32), slope.astype(np.float32)
