"""Backgrounds: (3,S,S) in linear light, S the side of the image."""

import math
from collections.abc import Callable, Mapping
from enum import Enum, auto

import numpy as np

from hardrank.trainer.data.demo.fields import Field, mix, noise, smooth, turned
from hardrank.trainer.data.demo.frame import plane
from hardrank.trainer.data.demo.palettes import BACKDROPS, SKIES, WOODS, graded, linear


class Background(Enum):
    """The kinds of background."""

    STUDIO = auto()
    WOOD = auto()
    CLOTH = auto()
    PAPER = auto()
    TABLETOP = auto()
    BOKEH = auto()
    SKY = auto()


def _pick(codes: tuple[str, ...], rng: np.random.Generator) -> Field:
    rgb = np.array(linear(codes[rng.integers(len(codes))]), dtype=np.float32)
    return graded(rgb, hue=rng.uniform(-10, 10), saturation=rng.uniform(0.7, 1.2), lightness=rng.uniform(0.8, 1.1))


def _toned(rgb: Field, tone: Field) -> Field:
    return rgb[:, None, None] * tone[None]


def _studio(x: Field, y: Field, rng: np.random.Generator) -> Field:
    spot = smooth(1.25 - np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.1, 0.7)) * 0.75)
    return _toned(_pick(BACKDROPS, rng), 0.6 + 0.5 * spot)


def _wood(x: Field, y: Field, rng: np.random.Generator) -> Field:
    x, y = turned(x, y, rng.uniform(-0.25, 0.25) + rng.integers(2) * math.pi / 2)
    width = rng.uniform(0.45, 0.75)
    board = np.floor(y / width + rng.uniform(0, 1)).astype(np.float32)
    shift = rng.uniform(0, 8)
    fibre = noise(x * 0.7 + 3.7 * board + shift, y * 7 + board)
    ring = np.abs(np.sin(9 * noise(x * 0.35 + 2.3 * board + shift, y * 1.6 + board + shift)))
    seam = np.abs(y / width - np.round(y / width))
    tone = 0.74 + 0.28 * fibre + 0.14 * ring + 0.1 * np.sin(2.4 * board + shift)
    return _toned(_pick(WOODS, rng), tone * (0.72 + 0.28 * smooth(np.minimum(seam, 0.1) * 16)))


def _cloth(x: Field, y: Field, rng: np.random.Generator) -> Field:
    x, y = turned(x, y, rng.uniform(-0.6, 0.6))
    fold = noise(x * 0.8 + rng.uniform(0, 8), y * 0.5 + rng.uniform(0, 8))
    weave = np.sin(x * 62) * np.sin(y * 62)
    bands = smooth(np.abs(np.sin(x * rng.uniform(2, 4) + rng.uniform(0, 3))) * 6 - 5) * rng.choice([0.0, 0.25])
    cloth = _toned(_pick(BACKDROPS, rng), 0.62 + 0.62 * fold + 0.07 * weave)
    return mix(cloth, 0.75, np.asarray(bands, dtype=np.float32)[None])


def _paper(x: Field, y: Field, rng: np.random.Generator) -> Field:
    along, _ = turned(x, y, rng.uniform(0, 2 * math.pi))
    fleck = noise(x * 9 + rng.uniform(0, 8), y * 9)
    edge = smooth((along - rng.uniform(-0.4, 0.6)) * 14)
    one, two = _pick(BACKDROPS, rng), _pick(BACKDROPS, rng)
    sheets = mix(one[:, None, None], two[:, None, None], edge[None])
    return sheets * (0.86 + 0.2 * fleck - 0.22 * smooth(1 - np.abs(edge - 0.35) * 3))[None]


def _tabletop(x: Field, y: Field, rng: np.random.Generator) -> Field:
    horizon = rng.uniform(-0.42, 0.05)
    slope = rng.uniform(-0.04, 0.04)
    below = smooth((horizon + slope * x - y) * 16 + 0.5)
    wall = _toned(_pick(BACKDROPS, rng), 0.75 + 0.3 * smooth(1 - np.hypot(x - rng.uniform(-0.8, 0.8), y - 0.6) * 0.6))
    depth = 1 / np.maximum(horizon + 0.35 - y, 0.12)
    grain = noise(x * depth * 0.5 + rng.uniform(0, 8), depth * 9)
    table = _pick(WOODS, rng) if rng.random() < 0.65 else _pick(BACKDROPS, rng)
    board = _toned(table, 0.78 + 0.3 * grain + 0.12 * y)
    return mix(wall, board, below[None])


def _bokeh(x: Field, y: Field, rng: np.random.Generator) -> Field:
    deep = _pick(BACKDROPS, rng)
    scene = _toned(deep, 0.3 + 0.22 * smooth(0.5 + 0.5 * y))
    for _ in range(9):
        radius = rng.uniform(0.1, 0.3)
        away = np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1))
        light = smooth((radius - away) * 14 + 0.5) * (0.55 + 0.45 * away / radius)
        scene = scene + _toned(_pick(SKIES + WOODS, rng), light * rng.uniform(0.1, 0.35))
    return scene


def _sky(x: Field, y: Field, rng: np.random.Generator) -> Field:
    cloud = smooth((noise(x * 0.9 + rng.uniform(0, 8), y * 1.7 + rng.uniform(0, 8)) - rng.uniform(0.4, 0.55)) * 3.2)
    blue = _toned(_pick(SKIES, rng), 0.92 - 0.22 * y)
    return mix(blue, 0.9, 0.85 * cloud[None] * np.clip(0.9 - 0.3 * y, 0, 1))


_SCENES: Mapping[Background, Callable[[Field, Field, np.random.Generator], Field]] = {
    Background.STUDIO: _studio,
    Background.WOOD: _wood,
    Background.CLOTH: _cloth,
    Background.PAPER: _paper,
    Background.TABLETOP: _tabletop,
    Background.BOKEH: _bokeh,
    Background.SKY: _sky,
}


def scene(kind: Background, side: int, strength: float, rng: np.random.Generator) -> Field:
    """A background (3,S,S) of a kind, faded to a plain light gray as `strength` goes from 1 to 0."""
    x, y = plane(side)
    painted = np.clip(_SCENES[kind](x, y, rng), 0.01, 1.2)
    return 0.6 + (painted - 0.6) * strength
