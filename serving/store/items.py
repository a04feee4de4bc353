"""What is indexed: images known by an id, with label, metadata and a thumbnail."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import UndecodableImageError, read_bytes

Scalar = str | int | float | bool | None
"""What a field of an item's metadata may hold."""

MAX_TEXT: Final = 128
"""Characters of an id or a label."""
MAX_METADATA_BYTES: Final = 16 * 2**10
"""Bytes of an item's metadata as JSON."""
MAX_THUMBNAIL_BYTES: Final = 256 * 2**10

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PLAIN: Final = re.compile(r"[A-Za-z0-9._\-]")


class ItemError(HardrankError):
    """An item that does not exist, exists already, or cannot be one."""


class UnknownItemError(ItemError):
    """No item has this id."""


class UnknownLabelError(ItemError):
    """No item has this label."""


class DuplicateItemError(ItemError):
    """An item of this id is in the index already, or twice in one request."""


class InvalidItemError(ItemError):
    """An id, label, metadata or vector that an item cannot have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NewItem:
    """An image to be indexed. Raises `InvalidItemError` where a field is not as described."""

    id: str
    """1 to 128 printable characters without slashes; neither `.` nor `..`."""
    vector: npt.NDArray[np.float32]
    """(D,), of norm 1."""
    label: str | None = None
    """Class; 1 to 128 printable characters."""
    source: str | None = None
    """Path of the image file on this machine; never told to clients."""
    source_sha256: str | None = None
    """SHA-256 of that file, hexadecimal; the file is served only while it matches."""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """Anything else that is known, as plain values."""
    thumbnail: bytes = field(default=b"", repr=False)
    """PNG; empty: none."""
    width: int = 0
    """Pixels of the original; 0: unknown."""
    height: int = 0
    """Pixels of the original; 0: unknown."""

    def __post_init__(self) -> None:
        check_id(self.id)
        if self.label is not None:
            check_label(self.label)
        encode_metadata(self.metadata)
        if self.thumbnail and not self.thumbnail.startswith(_PNG):
            raise InvalidItemError(f"the thumbnail of {self.id!r} is no PNG")
        if len(self.thumbnail) > MAX_THUMBNAIL_BYTES:
            raise InvalidItemError(f"the thumbnail of {self.id!r} has more than {MAX_THUMBNAIL_BYTES >> 10} KiB")
        if self.width < 0 or self.height < 0:
            raise InvalidItemError(
                f"{self.id!r} has the size {self.width}×{self.height}; give pixels, or 0 for unknown"
            )


@dataclass(frozen=True, kw_only=True)
class Item:
    """An indexed image, as clients may see it."""

    row: int
    """Number in the order of addition; never used twice, stable as long as the item exists."""
    id: str
    label: str | None
    metadata: Mapping[str, Scalar]
    width: int
    """Pixels of the original; 0: unknown."""
    height: int
    """Pixels of the original; 0: unknown."""


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


@dataclass(frozen=True, kw_only=True)
class Match:
    """An item that a search found."""

    item: Item
    score: float
    """Cosine similarity to the query, in [−1,1]."""
    rank: int
    """1 for the best."""


def check_id(text: str) -> None:
    """Raise `InvalidItemError` unless `text` can be the id of an item."""
    _check_text("id", text)
    if "/" in text or "\\" in text or text in {".", ".."}:
        raise InvalidItemError(f"{text!r} is no id: an id is part of an address, so it has no slash and is not . or ..")


def check_label(text: str) -> None:
    """Raise `InvalidItemError` unless `text` can be a label."""
    _check_text("label", text)


def id_of_path(relative: str) -> str:
    """Give the id of an image by its path relative to the gallery's root, with forward slashes.

    `a/b.jpg` becomes `a~b.jpg`. Paths with other characters than letters, digits, `.`, `_`, `-` and `/`, and those too
    long, end in `~` and eight digits of their hash in place of what was lost; so an id depends on its path alone, and
    two paths do not share one.
    """
    text = "".join("~" if c == "/" else c if _PLAIN.match(c) else "_" for c in relative)
    if text.replace("~", "/") == relative and "~" not in relative and len(text) <= MAX_TEXT and text not in {".", ".."}:
        return text
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{text[: MAX_TEXT - 9]}~{digest}"


def encode_metadata(metadata: Mapping[str, Scalar]) -> str:
    """Give metadata as JSON; raises `InvalidItemError` for what is no plain value."""
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str | int | float | bool | None):
            raise InvalidItemError(f"the metadata field {name!r} holds {type(value).__name__}; give text or numbers")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidItemError(f"the metadata field {name!r} is {value}, which JSON does not have; give a number")
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True)
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidItemError("the metadata hold text that is no valid Unicode") from error
    if size > MAX_METADATA_BYTES:
        raise InvalidItemError(f"the metadata have {size} bytes, above the limit of {MAX_METADATA_BYTES}")
    return text


def check_vectors(vectors: npt.NDArray[np.float32], dimension: int) -> str | None:
    """Say what is wrong with vectors (n,D), each of which must be finite and of norm 1; None where nothing is."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        return f"vectors have the shape {vectors.shape}; this index needs (n,{dimension})"
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    bad = ~(np.abs(norms - 1) <= _NORM_TOLERANCE)  # NaN is bad too
    if bad.any():
        number = int(bad.argmax())
        return f"vector {number} has the norm {norms[number]:.4g}; give embeddings of norm 1 without NaN"
    return None


_NORM_TOLERANCE: Final = 1e-3


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_TEXT or not text.isprintable() or text != text.strip():
        raise InvalidItemError(
            f"{str(text)[:MAX_TEXT]!r} is no {name}: give 1 to {MAX_TEXT} printable characters without spaces around"
        )
