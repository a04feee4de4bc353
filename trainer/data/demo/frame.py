"""The pose: the object's coordinates at each sample of the image."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from hardrank.trainer.data.demo.fields import Field


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A placement of the object in the image; both have coordinates in [-1,1]², with v upwards."""

    turn: float
    """Anticlockwise rotation, radians."""
    scale: float
    """Half-widths of the image per unit of the object."""
    center: tuple[float, float]
    """Where the object's origin is in the image."""
    shear: float
    keystone: tuple[float, float]
    """Relative change of magnification per half-width to the right and upwards."""
    mirrored: bool


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The object's coordinates at each sample of the image."""

    u: Field
    """To the right in the object, (S,S)."""
    v: Field
    """Upwards in the object, (S,S)."""
    pixel: float
    """The distance between samples, in units of the object."""
    cos: float
    sin: float
    flip: float
    """-1 where mirrored, else 1."""

    def to_image(self, x: Field, y: Field) -> tuple[Field, Field]:
        """A direction in the object, as a direction in the image."""
        x = x * self.flip
        return x * self.cos - y * self.sin, x * self.sin + y * self.cos


def frame(pose: Pose, samples: int) -> Frame:
    """The frame of `samples` × `samples` for a pose."""
    x, y = plane(samples)
    depth = 1 + pose.keystone[0] * x + pose.keystone[1] * y
    x = (x - pose.center[0]) / depth
    y = (y - pose.center[1]) / depth
    cos, sin, flip = math.cos(pose.turn), math.sin(pose.turn), -1.0 if pose.mirrored else 1.0
    v = (y * cos - x * sin) * (1 / pose.scale)
    u = (x * cos + y * sin) * (flip / pose.scale) - pose.shear * v
    return Frame(u=u, v=v, pixel=2 / (samples * pose.scale), cos=cos, sin=sin, flip=flip)


@cache
def plane(side: int) -> tuple[Field, Field]:
    """Image coordinates (S,S) of the centers of S × S pixels or samples: to the right and upwards, in [-1,1]."""
    at = ((np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1).astype(np.float32)
    x, y = np.meshgrid(at, -at)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y
