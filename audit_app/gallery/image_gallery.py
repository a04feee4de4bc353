"""The images of an audit, whatever the model: an index, the test set of a run, or a folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.errors import GalleryError
from hardrank.models.bundle import CARD, load_card
from hardrank.models.preprocessing import UndecodableImageError, read_bytes
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import RUN, list_images
from hardrank.serving.store.items import id_of_path
from hardrank.serving.store.manifest import IndexManifest
from hardrank.trainer.config import Config, parse_config
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import DataOptions, relative

UNLABELLED: Final = ""
"""The class of images whose class nobody told."""

_PAGE: Final = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceIndex:
    """An index that holds the images of a gallery."""

    folder: Path
    manifest: IndexManifest
    vector: Callable[[str], npt.NDArray[np.float32]] = field(repr=False)
    """Id → the vector that searches compare with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageGallery:
    """Images by row, with their ids and classes. Raises `GalleryError` for ids that repeat, or no image at all."""

    name: str
    """Where they come from, for a reader."""
    ids: tuple[str, ...]
    """One for each row, all different."""
    labels: npt.NDArray[np.int64]
    """(N,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names; `UNLABELLED` for images of no known class."""
    read: Callable[[int], bytes] = field(repr=False)
    """Row → the bytes of its file; raises `UndecodableImageError` where they cannot be read."""
    problems: tuple[str, ...] = ()
    """What was left out, and why."""
    indexes: tuple["SourceIndex", ...] = ()
    """The indexes it was read from."""

    def __post_init__(self) -> None:
        if not self.ids:
            most = f"; left out: {self.problems[0]}" if self.problems else ""
            raise GalleryError(f"{self.name} has no image that can be read{most}")
        if len(set(self.ids)) < len(self.ids):
            twice, _ = Counter(self.ids).most_common(1)[0]
            raise GalleryError(f"{self.name} has two images with the id {twice!r}; give each its own")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled_classes(self) -> int:
        """How many classes have an image; images of no known class count as one."""
        return len(np.unique(self.labels))

    def label(self, row: int) -> str:
        """Name the class of a row."""
        return self.classes[int(self.labels[row])]

    def row(self, id: str) -> int:
        """Find the row of an id; raises `GalleryError`."""
        try:
            return self.ids.index(id)
        except ValueError:
            raise GalleryError(f"{self.name} has no image with the id {id!r}") from None

    def digest(self) -> str:
        """SHA-256 over the ids and classes, in their order: two audits with the same have the same gallery."""
        whole = hashlib.sha256()
        for row, id in enumerate(self.ids):
            whole.update(f"{id}\0{self.label(row)}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    def without(self, problems: Mapping[int, str]) -> "ImageGallery":
        """Give the gallery less the rows that are `problems`, which are named."""
        if not problems:
            return self
        kept = [row for row in range(len(self)) if row not in problems]
        ids = [self.ids[row] for row in kept]
        read = self.read
        return ImageGallery(
            name=self.name,
            ids=tuple(ids),
            labels=self.labels[kept],
            classes=self.classes,
            read=lambda row: read(kept[row]),
            problems=(*self.problems, *(f"{self.ids[row]}: {why}" for row, why in sorted(problems.items()))),
            indexes=self.indexes,
        )


def from_images(place: Path) -> ImageGallery:
    """Read a folder (its class folders are the classes) or a CSV of `path[,id][,label]`; raises `ListingError`."""
    listing = list_images(place)
    names = sorted({entry.label or UNLABELLED for entry in listing.entries})
    return _of_files(
        name=f"images of {place}",
        paths=[entry.path for entry in listing.entries],
        ids=[entry.id for entry in listing.entries],
        labels=np.array([names.index(entry.label or UNLABELLED) for entry in listing.entries], dtype=np.int64),
        classes=names,
        problems=[f"{problem.path}: {problem.kind}" for problem in listing.problems],
    )


def from_run(place: Path, *, data_root: Path | None = None) -> ImageGallery:
    """Read the test images of a run, or of the run that made a bundle, in the order in which it was evaluated.

    `data_root` names the images where they have moved since. Raises `GalleryError` where `place` is neither,
    `DatasetError` where the images are gone.
    """
    config = config_of(place)
    data = config.data if data_root is None else _moved(config, data_root)
    dataset = load_dataset(data)
    test = dataset.test
    return _of_files(
        name=f"test set of {config.name}",
        paths=test.paths,
        ids=[id_of_path(relative(path, dataset.root).lstrip("/")) for path in test.paths],
        labels=test.labels,
        classes=test.classes,
        problems=[f"{relative(p.path, dataset.root)}: {p.kind}" for p in dataset.problems],
    )


def config_of(place: Path) -> Config:
    """Read the configuration of a run's folder or of a bundle; raises `GalleryError` where it is neither."""
    place = place.expanduser()
    if (place / CARD).is_file():
        return parse_config(load_card(place).config, source=str(place / CARD))
    try:
        content = json.loads((place / RUN).read_text(encoding="utf-8"))
        return parse_config(content["config"], source=str(place / RUN))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError(f"{place} is neither the folder of a run nor a bundle; runs lie in runs/NAME") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GalleryError(f"{place / RUN} is damaged ({error}); name another run, or its bundle") from error


def from_index(*folders: Path) -> ImageGallery:
    """Take the items of an index whose original images are still there, unchanged.

    Further folders are the same images indexed with other models. Raises `IndexNotFoundError`, `IndexDamagedError`,
    and `GalleryError` where the indexes hold different images.
    """
    opened = [SearchIndex.open(folder.expanduser()) for folder in folders]
    index, ids = opened[0], _all_ids(opened[0])
    for other in opened[1:]:
        if differing := set(ids) ^ set(_all_ids(other)):
            raise GalleryError(
                f"{index.folder} and {other.folder} do not hold the same images ({len(differing)} ids are in one "
                f"alone, as {min(differing)!r}), so their rankings cannot be compared; index the same folder twice"
            )
    items = [index.item(id) for id in ids]
    names = sorted({item.label or UNLABELLED for item in items})

    def read(row: int) -> bytes:
        data = index.original(ids[row])
        if data is None:
            raise UndecodableImageError("the file it was indexed from is gone, has changed, or is not known")
        return data

    return ImageGallery(
        name=f"index {folders[0]}",
        ids=tuple(ids),
        labels=np.array([names.index(item.label or UNLABELLED) for item in items], dtype=np.int64),
        classes=tuple(names),
        read=read,
        indexes=tuple(SourceIndex(folder=one.folder, manifest=one.manifest, vector=one.vector) for one in opened),
    )


def _all_ids(index: SearchIndex) -> list[str]:
    ids: list[str] = []
    while page := index.ids(start=len(ids), count=_PAGE):
        ids += page
    return ids


def _moved(config: Config, root: Path) -> DataOptions:
    return replace(config.data, root=root)


def _of_files(
    *,
    name: str,
    paths: Sequence[Path],
    ids: Sequence[str],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    problems: Sequence[str],
) -> ImageGallery:
    return ImageGallery(
        name=name,
        ids=tuple(ids),
        labels=labels,
        classes=tuple(classes),
        read=lambda row: read_bytes(paths[row]),
        problems=tuple(problems),
    )
