"""A gallery and its models as they answer queries: the vectors that are searched, and files as queries."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from hardrank.audit_app.gallery.embedded import Scene, silent
from hardrank.audit_app.images.exact_png import Pixels, canvas_around, canvas_of, crop_of, pixels_hash
from hardrank.audit_app.ranking.views import Matrix, Vector
from hardrank.models.preprocessing import UndecodableImageError, to_unit
from hardrank.models.progress import OnProgress, StageProgress

_BATCH: Final = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A scene with the embeddings that the served model gives; use `serve_scene`."""

    scene: Scene
    matrix: Matrix
    """(N,D) float32: of the index where the images come from one of this model, else as the served model gives them."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.scene.subject.name

    def embed(self, pixels: Pixels) -> Vector:
        """Embed the bytes (3,S,S) of an image with the served model → (D,)."""
        return self.embed_floats(to_unit(pixels))

    def embed_floats(self, image: np.ndarray) -> Vector:
        """Embed an image (3,S,S) in [0,1] with the served model → (D,)."""
        found: Vector = self.scene.subject.serve(np.ascontiguousarray(image[None], dtype=np.float32))[0]
        return found

    def embed_file(self, data: bytes) -> Vector:
        """Embed the bytes of a file as the server does → (D,); raises `UndecodableImageError`."""
        return self.embed(crop_of(data, self.scene.subject.preprocessing))

    def picture(self, row: int) -> Pixels:
        """Give a gallery image as the model sees it (3,S,S)."""
        found: Pixels = self.scene.pixels(np.array([row]))[0]
        return found

    def canvas(self, data: bytes | None, pixels: Pixels) -> Pixels:
        """Give the square (3,R,R) around `pixels` (3,S,S): of the file they were cut from, where it is at hand."""
        pre = self.scene.subject.preprocessing
        if data is not None and pixels_hash(crop_of(data, pre)) == pixels_hash(pixels):
            return canvas_of(data, pre)
        return canvas_around(pixels, pre)

    def file(self, row: int) -> bytes | None:
        """Give the file of a gallery image; None where it is gone."""
        try:
            return self.scene.collection.read(row)
        except UndecodableImageError:
            return None


def serve_scene(scene: Scene, *, report: OnProgress = silent) -> Served:
    """Embed a scene's gallery with the served model, or take the vectors of its index."""
    for index in scene.collection.indexes:
        if index.manifest.model_sha256 == scene.subject.sha256:
            vectors = [index.vector(id) for id in scene.collection.ids]
            return Served(scene=scene, matrix=np.stack(vectors).astype(np.float32))
    parts = []
    for begin in range(0, len(scene), _BATCH):
        rows = np.arange(begin, min(begin + _BATCH, len(scene)))
        parts.append(scene.subject.serve(to_unit(scene.pixels(rows))))
        report(StageProgress(stage=f"{scene.subject.name} as served", done=int(rows[-1]) + 1, total=len(scene)))
    return Served(scene=scene, matrix=np.concatenate(parts))
