"""The gallery of an audit, as one model sees it: pixels, embeddings, classes."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hardrank.audit_app.errors import GalleryError
from hardrank.audit_app.gallery.image_gallery import ImageGallery, SourceIndex
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.cores import usable_cores
from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.preprocessing import Preprocessing, file_pixels, to_unit
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.serving.store.errors import WrongModelError
from hardrank.trainer.attacks.attack import Gallery

Uint8Images = npt.NDArray[np.uint8]
"""(N,3,S,S)."""
Rows = npt.NDArray[np.int64]

CACHE_BYTES: Final = 2 * 2**30
"""Galleries up to this size in pixels are kept in memory."""
_BATCH: Final = 256
_SAMPLE: Final = 64
_GRADIENT_SAMPLE: Final = 16
"""Number of images on which the gradients of a converted model are checked."""
_SAME_VECTOR: Final = 1e-2
"""How far a float32 embedding may be from the index's vector, as indexes may store half precision."""


def ignore_progress(progress: StageProgress) -> None:
    """Report nothing."""


class CropStore:
    """The center crops of a gallery for one preprocessing, in memory if they fit."""

    def __init__(self, gallery: ImageGallery, preprocessing: Preprocessing, cache: Uint8Images | None) -> None:
        self._gallery = gallery
        self._preprocessing = preprocessing
        self._cache = cache

    def __getitem__(self, rows: Rows) -> Uint8Images:
        """Return the pixels of `rows` (n,) → (n,3,S,S)."""
        if self._cache is not None:
            return self._cache[rows]
        return np.stack([file_pixels(self._gallery.read(int(row)), self._preprocessing) for row in rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedGallery:
    """A gallery, prepared for a model and embedded by it; made by `embed_gallery`."""

    gallery: ImageGallery
    """Ids, classes and files, without the images that could not be read."""
    subject: Subject
    store: CropStore
    embeddings: Tensor
    """(N,D) in float32, of norm 1, on the subject's device."""

    def __len__(self) -> int:
        return len(self.gallery)

    @cached_property
    def labels(self) -> Tensor:
        """(N,): class numbers, on the subject's device."""
        return torch.from_numpy(self.gallery.labels).to(self.embeddings.device)

    @cached_property
    def tensors(self) -> Gallery:
        """The embeddings and labels, as attacks take them."""
        return Gallery(self.embeddings, self.labels)

    def pixels(self, rows: Rows) -> Uint8Images:
        """Return the pixels of gallery rows (n,) → uint8 (n,3,S,S)."""
        return self.store[rows]

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of gallery rows (n,) → float32 (n,3,S,S) in [0,1] on the subject's device."""
        unit = torch.from_numpy(to_unit(self.pixels(rows.cpu().numpy())))
        return unit.to(self.subject.device, memory_format=torch.channels_last)


def embed_gallery(
    subject: Subject,
    gallery: ImageGallery,
    *,
    on_progress: OnProgress = ignore_progress,
    cache_bytes: int = CACHE_BYTES,
) -> EmbeddedGallery:
    """Prepare and embed the images of `gallery` for a model; see `embed_galleries`."""
    return embed_galleries([subject], gallery, on_progress=on_progress, cache_bytes=cache_bytes)[0]


def embed_galleries(
    subjects: Sequence[Subject],
    gallery: ImageGallery,
    *,
    on_progress: OnProgress = ignore_progress,
    cache_bytes: int = CACHE_BYTES,
) -> list[EmbeddedGallery]:
    """Prepare and embed the images of a gallery for each model.

    Images that cannot be read are left out and named. All results share one `ImageGallery`, so a row means the same
    image in each.

    Args:
        subjects: The models.
        gallery: The images.
        on_progress: Called with the progress of each stage.
        cache_bytes: Pixels are kept in memory if they take at most this many bytes, else read again when needed.

    Raises:
        GalleryError: Fewer than two images can be read, or an index holds other vectors than the model gives.
        WrongModelError: An index belongs to another model.
    """
    check_indexes(subjects, gallery)
    needed = list(dict.fromkeys(subject.preprocessing for subject in subjects))
    caches, problems = _prepare(gallery, needed, on_progress, cache_bytes)
    readable = gallery.without(problems)
    if len(readable) < 2:
        raise GalleryError(
            f"{readable.name} has only one image that can be read ({readable.ids[0]!r}), so there is no ranking to "
            "attack; give a gallery of two or more"
        )
    kept = np.array([row not in problems for row in range(len(gallery))])
    if not kept.all():
        caches = {preprocessing: cache[kept] for preprocessing, cache in caches.items()}
    stores = {one: CropStore(readable, one, caches.get(one)) for one in needed}
    return [_embed(subject, readable, stores[subject.preprocessing], on_progress) for subject in subjects]


def check_indexes(subjects: Sequence[Subject], gallery: ImageGallery) -> None:
    """Raise `WrongModelError` unless each index that the images come from belongs to one of the models."""
    known = {subject.sha256 for subject in subjects}
    for index in gallery.indexes:
        if index.manifest.model_sha256 not in known:
            names = ", ".join(f"{subject.name} ({subject.sha256[:12]}…)" for subject in subjects)
            raise WrongModelError(
                f"the index {index.folder} was made with the model {index.manifest.model} (SHA-256 "
                f"{index.manifest.model_sha256[:12]}…), which is not one of the models under audit: {names}; name that "
                "model, or the index of one of these"
            )


def _prepare(
    gallery: ImageGallery, needed: Sequence[Preprocessing], on_progress: OnProgress, cache_bytes: int
) -> tuple[dict[Preprocessing, Uint8Images], dict[int, str]]:
    """Decode each image once; return the pixels if they fit in memory, and what is wrong with which rows."""
    shapes = {one: (len(gallery), 3, one.crop, one.crop) for one in needed}
    fits = sum(map(math.prod, shapes.values())) <= cache_bytes
    caches = {one: np.zeros(shape, dtype=np.uint8) for one, shape in shapes.items()} if fits else {}
    problems: dict[int, str] = {}

    def read(row: int) -> tuple[int, Mapping[Preprocessing, Uint8Images] | str]:
        try:
            data = gallery.read(row)
            return row, {one: file_pixels(data, one) for one in needed}
        except UndecodableImageError as error:
            return row, str(error)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for begin in range(0, len(gallery), _BATCH):  # in parts, so that few images wait in memory
            end = min(begin + _BATCH, len(gallery))
            for row, found in pool.map(read, range(begin, end)):
                if isinstance(found, str):
                    problems[row] = found
                    continue
                for one, cache in caches.items():
                    cache[row] = found[one]
            on_progress(StageProgress(stage="images", done=end, total=len(gallery)))
    return caches, problems


@torch.no_grad()
def _embed(subject: Subject, gallery: ImageGallery, store: CropStore, on_progress: OnProgress) -> EmbeddedGallery:
    total, parts = len(gallery), []
    for begin in range(0, total, _BATCH):
        rows = np.arange(begin, min(begin + _BATCH, total))
        parts.append(subject.judge(torch.from_numpy(to_unit(store[rows])).to(subject.device)))
        on_progress(StageProgress(stage=f"embeddings {subject.name}", done=min(begin + _BATCH, total), total=total))
    embeddings = torch.cat(parts)
    sample = _evenly_spaced(total, _GRADIENT_SAMPLE)
    subject = subject.with_checked_gradients(
        torch.from_numpy(to_unit(store[sample])).to(subject.device),
        embeddings[torch.from_numpy(sample).to(embeddings.device)],
    )
    embedded = EmbeddedGallery(gallery=gallery, subject=subject, store=store, embeddings=embeddings)
    for index in gallery.indexes:
        if index.manifest.model_sha256 == subject.sha256:
            _compare(embedded, index)
    return embedded


def _evenly_spaced(total: int, most: int) -> Rows:
    """Return at most `most` of `total` rows."""
    return np.unique(np.linspace(0, total - 1, min(most, total)).astype(np.int64))


def _compare(embedded: EmbeddedGallery, index: SourceIndex) -> None:
    """Raise `GalleryError` unless the index holds what the model returns, on a sample."""
    rows = _evenly_spaced(len(embedded), _SAMPLE)
    ids = [embedded.gallery.ids[row] for row in rows]
    distances = np.linalg.norm(index.vectors(ids) - embedded.embeddings[torch.from_numpy(rows)].cpu().numpy(), axis=1)
    for id, distance in zip(ids, distances.tolist(), strict=True):
        if not distance <= _SAME_VECTOR:
            raise GalleryError(
                f"the vector of {id!r} in the index {index.folder.name} is {distance:.3g} away from the embedding of "
                f"{embedded.subject.name}: its images or its preprocessing differ from the model's; build the index "
                "again"
            )
