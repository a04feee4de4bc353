"""Items of an index: images with an id, label, metadata and a thumbnail."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.decoding import read_bytes
from hardrank.models.errors import HardrankError

Scalar = str | int | float | bool | None
"""Type of a metadata field's value."""

MAX_TEXT: Final = 128
"""Maximum number of characters of an id or a label."""
MAX_METADATA_BYTES: Final = 16 * 2**10
"""Maximum size of an item's metadata as JSON."""
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**64 - 1
"""Range of integers in metadata: what every JSON library here writes and reads exactly."""
MAX_THUMBNAIL_BYTES: Final = 256 * 2**10

_NORM_TOLERANCE: Final = 1e-3
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PLAIN: Final = re.compile(r"[A-Za-z0-9._\-]")


class ItemError(HardrankError):
    """Base class of errors about one item."""


class UnknownItemError(ItemError):
    """No item has this id."""


class UnknownLabelError(ItemError):
    """No item has this label."""


class DuplicateItemError(ItemError):
    """An item with this id is already indexed, or occurs twice in one request."""


class InvalidItemError(ItemError):
    """An id, label, metadata, thumbnail or vector that is not allowed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NewItem:
    """An image to index. Raises `InvalidItemError` for an invalid field."""

    id: str
    """1 to 128 printable characters without slashes; neither `.` nor `..`."""
    vector: npt.NDArray[np.float32]
    """(D,), of norm 1."""
    label: str | None = None
    """Class of the image; 1 to 128 printable characters."""
    source: str | None = None
    """Path of the image file on this machine; never sent to clients."""
    source_sha256: str | None = None
    """SHA-256 of that file, hexadecimal; the file is served only as long as it matches."""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """Further fields, with plain values."""
    thumbnail: bytes = field(default=b"", repr=False)
    """PNG; empty: none."""
    width: int = 0
    """Pixels of the original; 0: unknown."""
    height: int = 0
    """Like `width`."""

    def __post_init__(self) -> None:
        check_id(self.id)
        if self.label is not None:
            check_label(self.label)
        encode_metadata(self.metadata)
        if self.thumbnail and not self.thumbnail.startswith(_PNG):
            raise InvalidItemError(f"the thumbnail of {self.id!r} is not a PNG image")
        if len(self.thumbnail) > MAX_THUMBNAIL_BYTES:
            raise InvalidItemError(
                f"the thumbnail of {self.id!r} is larger than the limit of {MAX_THUMBNAIL_BYTES >> 10} KiB"
            )
        if self.width < 0 or self.height < 0:
            raise InvalidItemError(
                f"{self.id!r} has the size {self.width}×{self.height}; give the size in pixels, or 0 if unknown"
            )


class Item(NamedTuple):
    """An indexed image, as clients may see it. A tuple, because a search makes thousands of them."""

    row: int
    """Position in the order of addition; constant for the life of the item, and never reused."""
    id: str
    label: str | None
    metadata_json: bytes
    """The metadata as JSON; most answers contain them unread."""
    width: int
    """Pixels of the original; 0: unknown."""
    height: int
    """Pixels of the original; 0: unknown."""

    @property
    def metadata(self) -> Mapping[str, Scalar]:
        """Further fields, with plain values."""
        return dict(json.loads(self.metadata_json))


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """The image file that an item was indexed from."""

    path: Path
    sha256: str
    """Of the file when it was indexed, hexadecimal."""

    def read(self) -> bytes | None:
        """Return the file's bytes; None if it no longer exists, has changed, or is too large."""
        try:
            data = read_bytes(self.path)
        except UndecodableImageError:
            return None
        return data if hashlib.sha256(data).hexdigest() == self.sha256 else None


@dataclass(frozen=True, kw_only=True)
class ListedItem:
    """An item as `SearchIndex.list_items` returns it. It holds a local path, so it must not be sent to clients."""

    row: int
    """See `Item`; the cursor that continues a listing after this item."""
    id: str
    label: str | None
    source: ImageSource | None
    """None if unknown, as for items that were uploaded."""


class Match(NamedTuple):
    """An item that a search found."""

    item: Item
    score: float
    """Cosine similarity to the query, in [−1,1]."""
    rank: int
    """1 for the most similar."""


def check_id(text: str) -> None:
    """Raise `InvalidItemError` unless `text` is a valid id."""
    _check_text("id", text)
    if "/" in text or "\\" in text or text in {".", ".."}:
        raise InvalidItemError(
            f"{text!r} is not a valid id: an id is part of a URL, so it must not contain slashes or be . or .."
        )


def check_label(text: str) -> None:
    """Raise `InvalidItemError` unless `text` is a valid label."""
    _check_text("label", text)


def id_of_path(relative: str) -> str:
    """Return the id of an image from its path relative to the gallery's root, with forward slashes.

    `a/b.jpg` becomes `a~b.jpg`. If the path is too long, or has characters other than letters, digits, `.`, `_`, `-`
    and `/`, the id ends in `~` and eight digits of the path's hash. So an id depends on the path alone, and different
    paths get different ids.
    """
    text = "".join("~" if c == "/" else c if _PLAIN.match(c) else "_" for c in relative)
    if text.replace("~", "/") == relative and "~" not in relative and len(text) <= MAX_TEXT and text not in {".", ".."}:
        return text
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{text[: MAX_TEXT - 9]}~{digest}"


def encode_metadata(metadata: Mapping[str, Scalar]) -> str:
    """Return metadata as JSON; raises `InvalidItemError` for values that are not plain."""
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str | int | float | bool | None):
            raise InvalidItemError(
                f"the metadata field {name!r} is a {type(value).__name__}; give text, a number, or a boolean"
            )
        if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
            raise InvalidItemError(f"the metadata field {name!r} is an integer of more than 64 bits; give it as text")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidItemError(
                f"the metadata field {name!r} is {value}, which JSON cannot represent; give a finite number"
            )
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True)
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidItemError("the metadata contain text that is not valid Unicode") from error
    if size > MAX_METADATA_BYTES:
        raise InvalidItemError(f"the metadata are {size} bytes long, above the limit of {MAX_METADATA_BYTES}")
    return text


def same_metadata(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> bool:
    """Return whether metadata are the same as JSON: unlike in Python, `true`, `1` and `1.0` differ."""
    return encode_metadata(one) == encode_metadata(other)


def check_vectors(vectors: npt.NDArray[np.float32], dimension: int) -> str | None:
    """Return what is wrong with vectors (n,D), which must be finite and of norm 1; None if they are valid."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        return f"the vectors have the shape {vectors.shape}; this index needs (n,{dimension})"
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    bad = ~(np.abs(norms - 1) <= _NORM_TOLERANCE)  # also catches NaN
    if bad.any():
        number = int(bad.argmax())
        return f"vector {number} has the norm {norms[number]:.4g}; give finite embeddings of norm 1"
    return None


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_TEXT or not text.isprintable() or text != text.strip():
        raise InvalidItemError(
            f"{str(text)[:MAX_TEXT]!r} is not a valid {name}: give 1 to {MAX_TEXT} printable characters without spaces "
            "at either end"
        )
