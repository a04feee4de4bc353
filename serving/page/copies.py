"""Near-duplicates among results: copies of one picture in other sizes or qualities.

They are recognized by their thumbnails, whatever a model takes for similar.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from hardrank.serving.store.items import Match

_SIDE: Final = 16
_TOLERANCE: Final = 8.0
"""Root mean square difference, in levels of 255, of copies that are shrunk to 16×16 pixels."""


def fold(
    matches: Sequence[Match], thumbnails: Mapping[str, bytes], count: int
) -> tuple[list[Match], dict[str, list[Match]]]:
    """Fold copies into the first of them.

    Args:
        matches: Best first.
        thumbnails: PNG by item id; items without one are never folded.
        count: Number of results to keep.

    Returns:
        The first `count` matches that are no copies of an earlier one, and the copies of each by its item id.
    """
    kept: list[Match] = []
    pictures: list[npt.NDArray[np.float32]] = []
    owners: list[str] = []
    copies: dict[str, list[Match]] = {}
    for match in matches:
        png = thumbnails.get(match.item.id, b"")
        small = _small(png) if png else None
        if small is not None and pictures:
            distances = np.sqrt(np.mean((np.stack(pictures) - small) ** 2, axis=(1, 2, 3)))
            nearest = int(distances.argmin())
            if distances[nearest] <= _TOLERANCE:
                copies.setdefault(owners[nearest], []).append(match)
                continue
        if len(kept) == count:
            continue
        kept.append(match)
        if small is not None:
            pictures.append(small)
            owners.append(match.item.id)
    return kept, copies


def _small(png: bytes) -> npt.NDArray[np.float32]:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)
