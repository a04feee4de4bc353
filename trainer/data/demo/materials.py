"""How surfaces reflect light."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hardrank.trainer.data.demo.fields import Field, smooth
from hardrank.trainer.data.demo.specification import Material


@dataclass(frozen=True, kw_only=True)
class Light:
    """A key light and the soft light of the room."""

    direction: tuple[float, float, float]
    """Unit vector to the key light: right, up, to the viewer."""
    color: tuple[float, float, float]
    """Of the key light, times its strength."""
    ambient: tuple[float, float, float]
    """Of the room."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """Shading parameters of a material."""

    wrap: float
    """How far diffuse light wraps around the form, [0,1]."""
    gloss: float
    """Strength of the highlight."""
    sharpness: float
    """Exponent of the highlight (Blinn's)."""
    sheen: float
    """Strength of the reflection at grazing angles (Schlick's form)."""
    mirror: float
    """Share of the diffuse light that a tinted reflection of the room replaces, [0,1]."""
    clearness: float
    """Share of the light that goes through where the surface faces the viewer, [0,1]."""


SURFACES: Mapping[Material, Surface] = {
    Material.GLAZED: Surface(wrap=0.1, gloss=0.85, sharpness=48, sheen=0.35, mirror=0.0, clearness=0.0),
    Material.MATTE: Surface(wrap=0.5, gloss=0.0, sharpness=1, sheen=0.05, mirror=0.0, clearness=0.0),
    Material.LUSTRE: Surface(wrap=0.0, gloss=1.1, sharpness=16, sheen=0.25, mirror=0.8, clearness=0.0),
    Material.GLASS: Surface(wrap=0.2, gloss=1.5, sharpness=130, sheen=0.75, mirror=0.0, clearness=0.45),
}


def shaded(
    albedo: Field,
    normal: tuple[Field, Field, Field],
    shade: Field,
    glow: Field | None,
    light: Light,
    surface: Surface,
) -> Field:
    """The light (3,S,S) that leaves a surface of color `albedo` (3,S,S) towards the viewer."""
    nx, ny, nz = normal
    lx, ly, lz = light.direction
    facing = nx * lx + ny * ly + nz * lz
    diffuse = np.maximum(facing + surface.wrap, 0) * (1 / (1 + surface.wrap))
    room = 0.72 + 0.28 * ny
    if surface.mirror:
        # A room seen in metal: a dark floor, a bright band at the horizon, a softer ceiling.
        bands = 0.12 + 1.15 * smooth(ny * 2.4 + 0.62) * (1 - 0.62 * smooth(ny * 2.2 - 0.35)) + 0.35 * nx * lx
        diffuse = diffuse * (1 - surface.mirror) + bands * surface.mirror
    if surface.clearness:
        # Light that came through gathers on the side away from its source.
        through = smooth(0.55 - 0.9 * (nx * lx + ny * ly))
        diffuse = diffuse * (1 - surface.clearness) + through * (1.5 * surface.clearness)
    grazing = (1 - nz) ** 3 * (surface.sheen * 0.6)
    hx, hy, hz = lx, ly, lz + 1
    half = 1 / math.sqrt(hx * hx + hy * hy + hz * hz)
    out = np.empty_like(albedo)
    highlight: Field | float = 0.0
    if surface.gloss:
        highlight = surface.gloss * np.maximum((nx * hx + ny * hy + nz * hz) * half, 0) ** surface.sharpness
    for channel in range(3):
        color = albedo[channel]
        received = (light.color[channel] * diffuse + light.ambient[channel] * room) * shade
        reflected = (highlight + grazing) * light.color[channel]
        if surface.mirror:
            reflected = reflected * (0.35 + 0.65 * color)
        out[channel] = color * received + reflected * shade
        if glow is not None:
            out[channel] += color * glow * (1.15, 0.95, 0.7)[channel]
    return out


def opacity(normal: tuple[Field, Field, Field], surface: Surface) -> Field | float:
    """The share of the background that the surface hides: all but for glass, which is densest at its rim."""
    if not surface.clearness:
        return 1.0
    nz = normal[2]
    return 1 - 0.45 * surface.clearness * nz * nz
