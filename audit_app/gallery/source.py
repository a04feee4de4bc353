"""Where the images of an audit come from, as one types it: an index, a run or bundle, a folder, a CSV."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from hardrank.audit_app.errors import GalleryError
from hardrank.audit_app.gallery.image_gallery import ImageGallery, from_images, from_index, from_run
from hardrank.models.bundle import CARD
from hardrank.serving.ingest.image_list import RUN
from hardrank.serving.store.manifest import MANIFEST


class SourceKind(StrEnum):
    """What a place holds."""

    INDEX = "index"
    RUN = "run"
    """A run's folder, or the bundle that a run made: its test images."""
    IMAGES = "images"
    """A folder, whose folders are classes, or a CSV of `path[,id][,label]`."""


@dataclass(frozen=True, kw_only=True)
class GallerySource:
    """A place on this machine with images."""

    kind: SourceKind
    paths: tuple[str, ...]
    """One; further ones are indexes of the same images made with other models."""
    data_root: str | None = None
    """Where the images of a run lie, where they have moved since."""

    @classmethod
    def at(cls, *texts: str) -> Self:
        """Look what is at these paths; raises `GalleryError` where nothing is, or several that are no indexes."""
        kinds = {_kind(Path(text).expanduser()) for text in texts}
        if not texts or (len(texts) > 1 and kinds != {SourceKind.INDEX}):
            raise GalleryError("give one gallery; several paths must all be indexes of the same images")
        return cls(kind=kinds.pop(), paths=texts)

    def open(self) -> ImageGallery:
        """Read what is there; raises what `hardrank.audit_app.gallery.image_gallery` raises."""
        first, *others = (Path(path).expanduser() for path in self.paths)
        if self.kind is SourceKind.INDEX:
            return from_index(first, *others)
        if self.kind is SourceKind.IMAGES:
            return from_images(first)
        return from_run(first, data_root=None if self.data_root is None else Path(self.data_root).expanduser())

    def absolute(self) -> Self:
        """Give the same place by whole paths, which lead there from any working directory."""
        root = None if self.data_root is None else _whole(self.data_root)
        return replace(self, paths=tuple(map(_whole, self.paths)), data_root=root)

    def to_dict(self) -> dict[str, Any]:
        """Give it ready for JSON; `from_dict` reads it back."""
        moved = {} if self.data_root is None else {"data_root": self.data_root}
        return {"kind": str(self.kind), "paths": list(self.paths), **moved}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Read what `to_dict` gave; raises `GalleryError`."""
        try:
            return cls(
                kind=SourceKind(content["kind"]),
                paths=tuple(str(path) for path in content["paths"]),
                data_root=None if content.get("data_root") is None else str(content["data_root"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise GalleryError(f"the gallery is described as {content!r}; give kind and paths") from error


def _whole(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _kind(place: Path) -> SourceKind:
    if not place.exists():
        raise GalleryError(f"{place} is not there; give an index, a run, a bundle, a folder of images or a CSV")
    if (place / MANIFEST).is_file():
        return SourceKind.INDEX
    if (place / RUN).is_file() or (place / CARD).is_file():
        return SourceKind.RUN
    return SourceKind.IMAGES
