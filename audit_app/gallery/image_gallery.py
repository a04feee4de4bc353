"""The images of an audit, whatever the model: read from an index, the test set of a run, or a folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.errors import GalleryError
from hardrank.models.bundle import CARD, load_card
from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.decoding import read_bytes
from hardrank.models.files import expand_user
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import RUN, list_images
from hardrank.serving.store.items import id_of_path
from hardrank.serving.store.manifest import IndexManifest
from hardrank.trainer.config import Config
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import DataOptions, relative
from hardrank.trainer.recipe import parse_config

UNLABELLED: Final = ""
"""The class of images without a label."""


@dataclass(frozen=True, kw_only=True)
class SourceIndex:
    """An index that a gallery was read from. It is opened for each read, so nothing stays open."""

    folder: Path
    manifest: IndexManifest

    def vectors(self, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the vectors (n,D) that searches compare with, in the order of `ids`.

        Raises:
            UnknownItemError: An item was deleted since the gallery was read.
        """
        with SearchIndex.open(self.folder, maintenance=False) as index:
            return index.vectors(ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageGallery:
    """Images by row, with their ids and classes. Raises `GalleryError` for repeated ids, or no image at all."""

    name: str
    """Where the images come from, for display."""
    ids: tuple[str, ...]
    """One for each row, all different."""
    labels: npt.NDArray[np.int64]
    """(N,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names; `UNLABELLED` for images without a label."""
    read: Callable[[int], bytes] = field(repr=False)
    """Row → the bytes of its file; raises `UndecodableImageError` if they cannot be read."""
    problems: tuple[str, ...] = ()
    """What was left out, and why."""
    indexes: tuple[SourceIndex, ...] = ()
    """The indexes it was read from."""
    data: DataOptions | None = None
    """The data set whose test images they are, if they are those of a run."""

    def __post_init__(self) -> None:
        if not self.ids:
            first = f"; left out: {self.problems[0]}" if self.problems else ""
            raise GalleryError(f"{self.name} has no image that can be read{first}")
        if len(set(self.ids)) < len(self.ids):
            repeated, _ = Counter(self.ids).most_common(1)[0]
            raise GalleryError(f"{self.name} has two images with the id {repeated!r}; ids must differ")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labeled_classes(self) -> int:
        """Number of classes with an image; images without a label count as one class."""
        return len(np.unique(self.labels))

    @property
    def has_matches(self) -> bool:
        """Whether two images share a class, so that retrieval can be measured."""
        return self.labeled_classes < len(self)

    def label(self, row: int) -> str:
        """Name of the class of a row."""
        return self.classes[int(self.labels[row])]

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {id: row for row, id in enumerate(self.ids)}

    def row(self, id: str) -> int:
        """Row of an id; raises `GalleryError` if it does not exist."""
        try:
            return self._rows[id]
        except KeyError:
            raise GalleryError(f"{self.name} has no image with the id {id!r}") from None

    def digest(self) -> str:
        """SHA-256 over the ids and classes in order; audits with the same digest have the same gallery."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        whole = hashlib.sha256()
        for row, id in enumerate(self.ids):
            whole.update(f"{id}\0{self.label(row)}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    def without(self, problems: Mapping[int, str]) -> "ImageGallery":
        """Return the gallery without the rows in `problems`, which maps each to what is wrong with it."""
        if not problems:
            return self
        kept = [row for row in range(len(self)) if row not in problems]
        read = self.read
        return replace(
            self,
            ids=tuple(self.ids[row] for row in kept),
            labels=self.labels[kept],
            read=lambda row: read(kept[row]),
            problems=(*self.problems, *(f"{self.ids[row]}: {why}" for row, why in sorted(problems.items()))),
        )


def from_images(place: Path) -> ImageGallery:
    """Read a folder (its class folders are the classes) or a CSV of `path[,id][,label]`.

    Raises:
        ListingError: `place` is neither, or lists no images.
    """
    listing = list_images(place)
    classes, labels = number_labels(entry.label for entry in listing.entries)
    paths = [entry.path for entry in listing.entries]
    return ImageGallery(
        name=f"images of {place}",
        ids=tuple(entry.id for entry in listing.entries),
        labels=labels,
        classes=classes,
        read=lambda row: read_bytes(paths[row]),
        problems=tuple(f"{problem.path}: {problem.kind}" for problem in listing.problems),
    )


def from_run(place: Path, *, data_root: Path | None = None) -> ImageGallery:
    """Read the test images of a run, or of the run that made a bundle, in the order of its evaluation.

    Args:
        place: Folder of the run or of the bundle.
        data_root: Folder of the images, if they have moved since.

    Raises:
        GalleryError: `place` is neither a run nor a bundle.
        DatasetError: The images do not exist.
    """
    config = config_of(place)
    data = config.data if data_root is None else replace(config.data, root=data_root)
    dataset = load_dataset(data)
    test = dataset.test
    return ImageGallery(
        name=f"test set of {config.name}",
        ids=tuple(id_of_path(relative(path, dataset.root).lstrip("/")) for path in test.paths),
        labels=test.labels,
        classes=tuple(test.classes),
        read=lambda row: read_bytes(test.paths[row]),
        problems=tuple(f"{p.path}: {p.kind}" for p in dataset.problems),
        data=data,
    )


def config_of(place: Path) -> Config:
    """Read the configuration of a run's folder or of a bundle; raises `GalleryError` if it is neither."""
    place = expand_user(place)
    if (place / CARD).is_file():
        return parse_config(load_card(place).config, source=str(place / CARD))
    try:
        content = json.loads((place / RUN).read_text(encoding="utf-8"))
        return parse_config(content["config"], source=str(place / RUN))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError(f"{place} is neither the folder of a run (as in runs/NAME) nor a bundle") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GalleryError(f"{place / RUN} is damaged ({error}); name another run, or its bundle") from error


def from_index(*folders: Path) -> ImageGallery:
    """Read the items of an index. Items whose original file has changed or no longer exists cannot be read.

    Args:
        folders: An index; further ones hold the same images, indexed with other models.

    Raises:
        IndexNotFoundError, IndexDamagedError: A folder is not an index, or a damaged one.
        GalleryError: The indexes hold different images.
    """
    with ExitStack() as stack:
        indexes = [stack.enter_context(SearchIndex.open(expand_user(folder), maintenance=False)) for folder in folders]
        items, *others = (index.list_items() for index in indexes)
        sources = tuple(SourceIndex(folder=index.folder, manifest=index.manifest) for index in indexes)
    ids = tuple(item.id for item in items)
    for source, other in zip(sources[1:], others, strict=True):
        if differing := set(ids) ^ {item.id for item in other}:
            raise GalleryError(
                f"{sources[0].folder} and {source.folder} do not hold the same images ({len(differing)} ids are in "
                f"only one of them, such as {min(differing)!r}); index the same folder with both models"
            )
    classes, labels = number_labels(item.label for item in items)

    def read(row: int) -> bytes:
        source = items[row].source
        data = None if source is None else source.read()
        if data is None:
            raise UndecodableImageError("its original file does not exist, has changed, or is not recorded")
        return data

    return ImageGallery(name=f"index {folders[0]}", ids=ids, labels=labels, classes=classes, read=read, indexes=sources)


def number_labels(labels: Iterable[str | None]) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return the sorted class names, and for each label its index among them (N,); None is `UNLABELLED`."""
    names = [label or UNLABELLED for label in labels]
    classes = tuple(sorted(set(names)))
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, np.array([numbers[name] for name in names], dtype=np.int64)
