"""From the bytes of a query to the pixels that the models need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardrank.models.decode_limits import DecodeLimits
from hardrank.models.decoding import decode_file
from hardrank.models.preprocessing import Preprocessing, image_pixels
from hardrank.serving.store.thumbnails import make_thumbnail


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImage:
    """A decoded image."""

    pixels: Mapping[Preprocessing, npt.NDArray[np.uint8]]
    """(3,C,C), for each requested preprocessing."""
    width: int
    """Pixels of the original."""
    height: int
    thumbnail: bytes
    """PNG; empty unless requested."""


def decode_image(
    data: bytes,
    sizes: Sequence[Preprocessing],
    limits: DecodeLimits,
    *,
    thumbnail: int,
    max_work: int | None = None,
) -> DecodedImage:
    """Decode an image for each preprocessing, and a thumbnail of so many pixels a side (0: none); see `decode_file`."""
    file = decode_file(data, limits=limits, max_work=max_work)
    return DecodedImage(
        pixels={size: image_pixels(file.image, size) for size in sizes},
        width=file.width,
        height=file.height,
        thumbnail=make_thumbnail(file.image, thumbnail) if thumbnail else b"",
    )
