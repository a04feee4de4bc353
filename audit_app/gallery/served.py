"""A gallery as a server answers queries: the vectors that it searches, and files as queries."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from hardrank.audit_app.gallery.embedded import EmbeddedGallery, ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.images.exact_png import Uint8Image, canvas_around, canvas_of, pixels_hash
from hardrank.audit_app.ranking.views import Matrix, Vector
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.preprocessing import file_pixels, to_unit
from hardrank.models.progress import OnProgress, StageProgress

_BATCH: Final = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedGallery:
    """An embedded gallery with the vectors of the served model; made by `serve_gallery`."""

    embedded: EmbeddedGallery
    matrix: Matrix
    """(N,D) float32: the vectors of the model's index if the images come from one, else what the served model gives."""

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

    def embed(self, pixels: Uint8Image) -> Vector:
        """Embed an image (3,S,S) with the served model → (D,)."""
        return self.embed_floats(to_unit(pixels))

    def embed_floats(self, image: np.ndarray) -> Vector:
        """Embed an image (3,S,S) in [0,1] with the served model → (D,)."""
        found: Vector = self.subject.serve(np.ascontiguousarray(image[None], dtype=np.float32))[0]
        return found

    def embed_file(self, data: bytes) -> Vector:
        """Embed the bytes of a file as the server does → (D,); raises `UndecodableImageError`."""
        return self.embed(file_pixels(data, self.subject.preprocessing))

    def picture(self, row: int) -> Uint8Image:
        """Return a gallery image as the model sees it (3,S,S)."""
        found: Uint8Image = self.embedded.pixels(np.array([row]))[0]
        return found

    def canvas(self, data: bytes | None, pixels: Uint8Image) -> Uint8Image:
        """Return the square (3,R,R) around `pixels` (3,S,S): of their file `data` if it still has these pixels."""
        pre = self.subject.preprocessing
        if data is not None and pixels_hash(file_pixels(data, pre)) == pixels_hash(pixels):
            return canvas_of(data, pre)
        return canvas_around(pixels, pre)

    def file(self, row: int) -> bytes | None:
        """Return the file of a gallery image; None if it cannot be read."""
        try:
            return self.gallery.read(row)
        except UndecodableImageError:
            return None


def serve_gallery(embedded: EmbeddedGallery, *, on_progress: OnProgress = ignore_progress) -> ServedGallery:
    """Embed a gallery with the served model, or read the vectors of the model's index."""
    subject, total = embedded.subject, len(embedded)
    for index in embedded.gallery.indexes:
        if index.manifest.model_sha256 == subject.sha256:
            return ServedGallery(embedded=embedded, matrix=index.vectors(embedded.gallery.ids))
    parts = []
    for begin in range(0, total, _BATCH):
        rows = np.arange(begin, min(begin + _BATCH, total))
        parts.append(subject.serve(to_unit(embedded.pixels(rows))))
        on_progress(StageProgress(stage=f"{subject.name} as served", done=int(rows[-1]) + 1, total=total))
    return ServedGallery(embedded=embedded, matrix=np.concatenate(parts))
