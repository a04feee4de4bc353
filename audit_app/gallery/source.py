"""Where the images of an audit come from: an index, a run or bundle, a folder, or a CSV."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Self

from hardrank.audit_app.errors import GalleryError
from hardrank.audit_app.gallery.image_gallery import ImageGallery, from_images, from_index, from_run
from hardrank.models.bundle import CARD
from hardrank.models.files import expand_user
from hardrank.serving.ingest.image_list import RUN
from hardrank.serving.store.manifest import MANIFEST


class SourceKind(StrEnum):
    """What a path contains."""

    INDEX = "index"
    RUN = "run"
    """A run's folder, or a bundle made by a run: the test images."""
    IMAGES = "images"
    """A folder of class folders, or a CSV of `path[,id][,label]`."""


@dataclass(frozen=True, kw_only=True)
class GallerySource:
    """Paths on this machine that contain the images."""

    kind: SourceKind
    paths: tuple[str, ...]
    """One path; further paths are indexes of the same images made with other models."""
    data_root: str | None = None
    """Folder of a run's images, if they have moved since."""

    @classmethod
    def at(cls, *texts: str) -> Self:
        """Detect what these paths contain.

        Raises:
            GalleryError: A path does not exist, or there are several that are not all indexes.
        """
        kinds = {_kind(expand_user(text)) for text in texts}
        if not texts or (len(texts) > 1 and kinds != {SourceKind.INDEX}):
            raise GalleryError("give one gallery; several paths must all be indexes of the same images")
        return cls(kind=kinds.pop(), paths=texts)

    def open(self) -> ImageGallery:
        """Read the images; raises what `from_index`, `from_run` and `from_images` raise."""
        first, *others = (expand_user(path) for path in self.paths)
        if self.kind is SourceKind.INDEX:
            return from_index(first, *others)
        if self.kind is SourceKind.IMAGES:
            return from_images(first)
        return from_run(first, data_root=None if self.data_root is None else expand_user(self.data_root))

    def absolute(self) -> Self:
        """Return the same source with absolute paths, which are valid in any working directory."""
        root = None if self.data_root is None else _absolute(self.data_root)
        return replace(self, paths=tuple(map(_absolute, self.paths)), data_root=root)


def _absolute(path: str) -> str:
    return str(expand_user(path).absolute())


def _kind(place: Path) -> SourceKind:
    if not place.exists():
        raise GalleryError(f"{place} does not exist; give an index, a run, a bundle, a folder of images or a CSV")
    if (place / MANIFEST).is_file():
        return SourceKind.INDEX
    if (place / RUN).is_file() or (place / CARD).is_file():
        return SourceKind.RUN
    return SourceKind.IMAGES
