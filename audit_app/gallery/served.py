"""A gallery and its models as they answer queries: the vectors that are searched, and files as queries."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from hardrank.audit_app.gallery.embedded import EmbeddedGallery, ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.images.exact_png import Pixels, canvas_around, canvas_of, pixels_hash
from hardrank.audit_app.ranking.views import Matrix, Vector
from hardrank.audit_app.subjects.loading import Subject
from hardrank.models.preprocessing import UndecodableImageError, file_pixels, to_unit
from hardrank.models.progress import OnProgress, StageProgress

_BATCH: Final = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedGallery:
    """A gallery with the embeddings that the served model gives; use `serve_gallery`."""

    embedded: EmbeddedGallery
    matrix: Matrix
    """(N,D) float32: of the index where the images come from one of this model, else as the served model gives them."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.embedded.subject.name

    @property
    def subject(self) -> Subject:
        """The model."""
        return self.embedded.subject

    @property
    def gallery(self) -> ImageGallery:
        """Ids, classes and files of the images."""
        return self.embedded.gallery

    def embed(self, pixels: Pixels) -> Vector:
        """Embed the bytes (3,S,S) of an image with the served model → (D,)."""
        return self.embed_floats(to_unit(pixels))

    def embed_floats(self, image: np.ndarray) -> Vector:
        """Embed an image (3,S,S) in [0,1] with the served model → (D,)."""
        found: Vector = self.embedded.subject.serve(np.ascontiguousarray(image[None], dtype=np.float32))[0]
        return found

    def embed_file(self, data: bytes) -> Vector:
        """Embed the bytes of a file as the server does → (D,); raises `UndecodableImageError`."""
        return self.embed(file_pixels(data, self.embedded.subject.preprocessing))

    def picture(self, row: int) -> Pixels:
        """Give a gallery image as the model sees it (3,S,S)."""
        found: Pixels = self.embedded.pixels(np.array([row]))[0]
        return found

    def canvas(self, data: bytes | None, pixels: Pixels) -> Pixels:
        """Give the square (3,R,R) around `pixels` (3,S,S): of the file they were cut from, where it is at hand."""
        pre = self.embedded.subject.preprocessing
        if data is not None and pixels_hash(file_pixels(data, pre)) == pixels_hash(pixels):
            return canvas_of(data, pre)
        return canvas_around(pixels, pre)

    def file(self, row: int) -> bytes | None:
        """Give the file of a gallery image; None where it is gone."""
        try:
            return self.gallery.read(row)
        except UndecodableImageError:
            return None


def serve_gallery(embedded: EmbeddedGallery, *, on_progress: OnProgress = ignore_progress) -> ServedGallery:
    """Embed a gallery's gallery with the served model, or take the vectors of its index."""
    for index in embedded.gallery.indexes:
        if index.manifest.model_sha256 == embedded.subject.sha256:
            vectors = [index.vector(id) for id in embedded.gallery.ids]
            return ServedGallery(embedded=embedded, matrix=np.stack(vectors).astype(np.float32))
    parts = []
    for begin in range(0, len(embedded), _BATCH):
        rows = np.arange(begin, min(begin + _BATCH, len(embedded)))
        parts.append(embedded.subject.serve(to_unit(embedded.pixels(rows))))
        on_progress(
            StageProgress(stage=f"{embedded.subject.name} as served", done=int(rows[-1]) + 1, total=len(embedded))
        )
    return ServedGallery(embedded=embedded, matrix=np.concatenate(parts))
