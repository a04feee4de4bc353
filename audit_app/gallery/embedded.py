"""The gallery of an audit, as one model sees it: pixels, embeddings, classes."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import cpu_count
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hardrank.audit_app.errors import GalleryError
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.subjects.loading import Subject
from hardrank.models.preprocessing import (
    Preprocessing,
    UndecodableImageError,
    file_pixels,
    to_unit,
)
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.serving.store.errors import WrongModelError
from hardrank.trainer.attacks.attack import Gallery

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]

CACHE_BYTES: Final = 2 * 2**30
"""Galleries up to this size as pixels are kept in memory."""
_BATCH: Final = 256
_SAMPLE: Final = 64
_SAME_VECTOR: Final = 1e-2
"""How far a float32 embedding may lie from the index's own, as indexes may hold half precision."""


def ignore_progress(progress: StageProgress) -> None:
    """Report nothing."""


class PixelStore:
    """The centre crops of a gallery, as a preprocessing gives them, in memory where they fit."""

    def __init__(self, gallery: ImageGallery, preprocessing: Preprocessing, cache: Bytes | None) -> None:
        self._gallery = gallery
        self._preprocessing = preprocessing
        self._cache = cache

    @property
    def nbytes(self) -> int:
        """Bytes that are kept in memory."""
        return 0 if self._cache is None else self._cache.nbytes

    def __getitem__(self, rows: Rows) -> Bytes:
        """Give the pixels of `rows` (n,) → (n,3,S,S)."""
        if self._cache is not None:
            return self._cache[rows]
        return np.stack([file_pixels(self._gallery.read(int(row)), self._preprocessing) for row in rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedGallery:
    """A gallery, prepared for a model and embedded by it; use `embed_gallery`."""

    gallery: ImageGallery
    """Ids, classes, files; without the images that could not be read."""
    subject: Subject
    store: PixelStore
    embeddings: Tensor
    """(N,D) in float32, of norm 1, on the subject's device."""

    def __len__(self) -> int:
        return len(self.gallery)

    @cached_property
    def labels(self) -> Tensor:
        """(N,): classes by number, on the subject's device."""
        return torch.from_numpy(self.gallery.labels).to(self.embeddings.device)

    @cached_property
    def tensors(self) -> Gallery:
        """The embeddings and labels, as attacks take them."""
        return Gallery(self.embeddings, self.labels)

    def pixels(self, rows: Rows) -> Bytes:
        """Give pixels of gallery rows (n,) → uint8 (n,3,S,S)."""
        return self.store[rows]

    def images(self, rows: Tensor) -> Tensor:
        """Give images of gallery rows (n,) → float32 (n,3,S,S) in [0,1] on the subject's device."""
        unit = torch.from_numpy(to_unit(self.pixels(rows.cpu().numpy())))
        return unit.to(self.subject.device, memory_format=torch.channels_last)


def embed_gallery(
    subject: Subject, gallery: ImageGallery, *, on_progress: OnProgress = ignore_progress
) -> EmbeddedGallery:
    """Prepare and embed the images of `gallery` for a model; see `embed_galleries`."""
    return embed_galleries([subject], gallery, on_progress=on_progress)[0]


def embed_galleries(
    subjects: Sequence[Subject], gallery: ImageGallery, *, on_progress: OnProgress = ignore_progress
) -> list[EmbeddedGallery]:
    """Prepare and embed the images for each model; images that cannot be read are left out, and named.

    All results share one `ImageGallery`, so a row means the same image in each. Raises `GalleryError`
    where fewer than two images are left, or an index holds other vectors than the model gives, `WrongModelError` for
    an index of another model.
    """
    check_indexes(subjects, gallery)
    wanted = list(dict.fromkeys(subject.preprocessing for subject in subjects))
    caches, problems = _prepare(gallery, wanted, on_progress)
    readable = gallery.without(problems)
    if len(readable) < 2:
        raise GalleryError(
            f"{readable.name} has one image that can be read ({readable.ids[0]!r}), so there is no ranking to attack; "
            "give a gallery of two or more"
        )
    kept = np.array([row not in problems for row in range(len(gallery))])
    stores = {
        preprocessing: PixelStore(readable, preprocessing, _kept(cache, kept))
        for preprocessing, cache in caches.items()
    }
    return [_embedded(subject, readable, stores[subject.preprocessing], on_progress) for subject in subjects]


def _kept(cache: Bytes | None, kept: npt.NDArray[np.bool_]) -> Bytes | None:
    return cache if cache is None or kept.all() else cache[kept]


def check_indexes(subjects: Sequence[Subject], gallery: ImageGallery) -> None:
    """Raise `WrongModelError` unless each index that the images come from was made with one of the models."""
    known = {subject.sha256 for subject in subjects}
    for index in gallery.indexes:
        if index.manifest.model_sha256 not in known:
            names = ", ".join(f"{subject.name} ({subject.sha256[:12]}…)" for subject in subjects)
            raise WrongModelError(
                f"the index {index.folder} was made with the model {index.manifest.model} (SHA-256 "
                f"{index.manifest.model_sha256[:12]}…), which is none of those under audit: {names}; name that model, "
                "or the index of one of these"
            )


def _prepare(
    gallery: ImageGallery, wanted: Sequence[Preprocessing], on_progress: OnProgress
) -> tuple[dict[Preprocessing, Bytes | None], dict[int, str]]:
    """Decode each image once; gives pixels by preprocessing, and what is wrong with which rows."""
    sizes = {one: len(gallery) * 3 * one.crop**2 for one in wanted}
    fits = sum(sizes.values()) <= CACHE_BYTES
    caches = {one: np.zeros((len(gallery), 3, one.crop, one.crop), dtype=np.uint8) if fits else None for one in wanted}
    problems: dict[int, str] = {}

    def read(row: int) -> tuple[int, Mapping[Preprocessing, Bytes] | str]:
        try:
            data = gallery.read(row)
            return row, {one: file_pixels(data, one) for one in wanted}
        except UndecodableImageError as error:
            return row, str(error)

    with ThreadPoolExecutor(cpu_count()) as pool:
        for begin in range(0, len(gallery), _BATCH):  # in pieces, so that few images wait in memory
            end = min(begin + _BATCH, len(gallery))
            for row, found in pool.map(read, range(begin, end)):
                if isinstance(found, str):
                    problems[row] = found
                    continue
                for one, pixels in found.items():
                    cache = caches[one]
                    if cache is not None:
                        cache[row] = pixels
            on_progress(StageProgress(stage="images", done=end, total=len(gallery)))
    return caches, problems


@torch.no_grad()
def _embedded(subject: Subject, gallery: ImageGallery, store: PixelStore, on_progress: OnProgress) -> EmbeddedGallery:
    """Embed all images."""
    total, parts = len(gallery), []
    for begin in range(0, total, _BATCH):
        rows = np.arange(begin, min(begin + _BATCH, total))
        parts.append(subject.judge(torch.from_numpy(to_unit(store[rows])).to(subject.device)))
        on_progress(StageProgress(stage=f"embeddings {subject.name}", done=min(begin + _BATCH, total), total=total))
    embedded = EmbeddedGallery(gallery=gallery, subject=subject, store=store, embeddings=torch.cat(parts))
    for index in gallery.indexes:
        if index.manifest.model_sha256 == subject.sha256:
            _compare(embedded, index.folder.name, index.vector)
    return embedded


def _compare(embedded: EmbeddedGallery, name: str, vector: Callable[[str], npt.NDArray[np.float32]]) -> None:
    """Raise `GalleryError` unless the index holds what the model gives, on a sample."""
    rows = np.unique(np.linspace(0, len(embedded) - 1, min(_SAMPLE, len(embedded))).astype(np.int64))
    for row in rows:
        id = embedded.gallery.ids[row]
        away = float(np.linalg.norm(vector(id) - embedded.embeddings[row].cpu().numpy()))
        if not away <= _SAME_VECTOR:
            raise GalleryError(
                f"the index {name} has {id!r} {away:.3g} away from where {embedded.subject.name} embeds it: its images "
                "or its preprocessing are not those of the model; build the index again"
            )
