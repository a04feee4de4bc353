"""Add images to an index: threads decode ahead, others pass batches to the network, and one writes.

What is committed is kept; the same call again skips it and continues.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from hardrank.models.cores import usable_cores
from hardrank.models.decode_limits import DEFAULT_LIMITS, DecodeLimits, UndecodableImageError
from hardrank.models.decoding import decode_file, read_bytes
from hardrank.models.errors import HardrankError
from hardrank.models.image_listing import ImageProblem, ImageProblemKind, is_file
from hardrank.models.preprocessing import Preprocessing, image_pixels
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import ImageEntry, ImageList
from hardrank.serving.store.item_table import Fingerprint
from hardrank.serving.store.items import NewItem, same_metadata
from hardrank.serving.store.thumbnails import make_thumbnail

Given = TypeVar("Given")
Made = TypeVar("Made")
Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]

_BATCHES: Final = 2
"""Batches in progress for each thread that embeds, so that the next one is ready when one is done; also threads that
pass batches to a network which they share: while the last images of one pass through it, cores would be idle."""
_IMAGES_OF_THREAD: Final = 8
"""Most images that one thread embeds at a time: more would not be faster."""
_LOOKED_UP: Final = 1024
"""Images that are looked up in the index at a time."""


class IngestError(HardrankError):
    """Invalid options of `add_images`."""


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """How images are decoded, embedded and committed. Raises `IngestError` for a number that is too small."""

    batch: int = 32
    """Images per forward pass; 8 at most if each thread of a CPU has its own (`Engine.side_by_side`)."""
    commit: int = 512
    """Images per commit; at most so many must be embedded again after an interruption."""
    decoders: int = 0
    """Threads that decode; 0: one per usable core."""
    limits: DecodeLimits = DEFAULT_LIMITS
    """Limits on the size of one image."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.commit < 1 or self.decoders < 0:
            raise IngestError(
                f"batch is {self.batch}, commit {self.commit}, decoders {self.decoders}; give at least 1 "
                "(decoders: or 0 for one per usable core)"
            )


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """What `add_images` did with each image."""

    added: int = 0
    """Number of new images."""
    replaced: int = 0
    """Number of images whose file, label or metadata had changed."""
    unchanged: int = 0
    """Number of images that were indexed already."""
    moved: int = 0
    """How many of these were indexed at another path, which was updated."""
    problems: Sequence[ImageProblem] = field(default_factory=tuple)
    """Images that were left out, and why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    entry: ImageEntry
    sha256: str
    pixels: npt.NDArray[np.uint8]
    """(3,C,C)."""
    thumbnail: bytes
    size: tuple[int, int]
    """Width and height of the original, in pixels."""
    replaces: bool
    """Whether its id is indexed with another file, label or metadata."""


@dataclass(frozen=True, kw_only=True)
class _Unchanged:
    """An image that is indexed already, with the same label and metadata."""

    id: str
    moved_to: Path | None
    """Its path, if it was indexed at another one."""


def add_images(
    index: SearchIndex,
    engine: Engine,
    listing: ImageList,
    *,
    options: IngestOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestResult:
    """Add the images that an index lacks, and replace those that have changed.

    After an error or interruption the index keeps what was committed, and the same call continues.

    Args:
        index: An index that is open for writing.
        engine: The model of the index.
        listing: The images, as `list_images` returns them.
        options: Batch and commit sizes, threads and limits; None for the defaults.
        progress: Called with the number of images processed, and of all.

    Returns:
        Numbers of images added, replaced and unchanged, and the images that were left out.

    Raises:
        WrongModelError: The index belongs to another model.
        IndexWriteError: The disk is full.
        IndexBusyError: Another process is writing.
    """
    options = options or IngestOptions()
    index.manifest.check_model(index.folder, engine.model_sha256, engine.name)
    ingest = _Ingest(index=index, engine=engine, options=options, problems=list(listing.problems))
    with ingest:
        for done, one in enumerate(ingest.decoded(listing.entries), start=1):
            ingest.take(one)
            if progress is not None:
                progress(done, len(listing.entries))
        ingest.finish()
    return ingest.result()


class _Ingest:
    """The images in progress: decoded, embedded, or being written."""

    def __init__(
        self, *, index: SearchIndex, engine: Engine, options: IngestOptions, problems: list[ImageProblem]
    ) -> None:
        self._index = index
        self._engine = engine
        self._options = options
        self._problems = problems
        self._decoders = ThreadPoolExecutor(options.decoders or usable_cores(), thread_name_prefix="decode")
        alone = engine.side_by_side
        threads = engine.threads if alone else _BATCHES
        self._pass = engine.embed_in_one_thread if alone else engine.embed
        self._batch = min(options.batch, _IMAGES_OF_THREAD) if alone else options.batch
        self._in_progress = _BATCHES * threads if alone else threads
        self._embedders = ThreadPoolExecutor(threads, thread_name_prefix="embed")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._written: Future[None] | None = None
        self._waiting: list[_Decoded] = []
        self._embedding: deque[Future[list[tuple[NewItem, bool]]]] = deque()
        self._embedded: list[tuple[NewItem, bool]] = []
        self._moved: dict[str, Path] = {}
        self._added = self._replaced = self._unchanged = self._moved_count = 0

    def __enter__(self) -> "_Ingest":
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.shutdown(cancel_futures=True)
        self._embedders.shutdown(cancel_futures=True)
        self._writer.shutdown()

    def decoded(self, entries: Sequence[ImageEntry]) -> Iterator[_Decoded | ImageProblem | _Unchanged]:
        """Decode in order, at most a few batches ahead, so that memory is bounded."""
        pre, limits = self._engine.preprocessing, self._options.limits

        def read(given: tuple[ImageEntry, Fingerprint | None]) -> _Decoded | ImageProblem | _Unchanged:
            return _read(*given, pre, limits)

        return _prefetch(self._decoders, read, self._looked_up(entries), 4 * self._options.batch)

    def take(self, one: _Decoded | ImageProblem | _Unchanged) -> None:
        """Take one image; start to embed a full batch, and commit when there are enough."""
        if isinstance(one, ImageProblem):
            self._problems.append(one)
        elif isinstance(one, _Unchanged):
            self._unchanged += 1
            if one.moved_to is not None:
                self._moved[one.id] = one.moved_to
                if len(self._moved) >= self._options.commit:
                    self._update_paths()
        else:
            self._waiting.append(one)
            if len(self._waiting) >= self._batch:
                self._embed()
                self._collect(self._in_progress)

    def finish(self) -> None:
        """Embed and commit the rest."""
        self._embed()
        self._collect(0)
        self._write()
        self._wait()
        self._update_paths()

    def result(self) -> IngestResult:
        """Return the numbers so far."""
        return IngestResult(
            added=self._added,
            replaced=self._replaced,
            unchanged=self._unchanged,
            moved=self._moved_count,
            problems=tuple(self._problems),
        )

    def _looked_up(self, entries: Sequence[ImageEntry]) -> Iterator[tuple[ImageEntry, Fingerprint | None]]:
        """Look up the images in the index, some at a time."""
        for start in range(0, len(entries), _LOOKED_UP):
            part = entries[start : start + _LOOKED_UP]
            known = self._index.fingerprints([entry.id for entry in part])
            yield from ((entry, known.get(entry.id)) for entry in part)

    def _embed(self) -> None:
        """Pass the waiting images to the network."""
        if self._waiting:
            self._embedding.append(self._embedders.submit(_embedded, self._pass, self._waiting))
            self._waiting = []

    def _collect(self, most: int) -> None:
        """Take embedded batches until at most `most` are in progress; commit when there are enough images."""
        while len(self._embedding) > most:
            self._embedded += self._embedding.popleft().result()
            if len(self._embedded) >= self._options.commit:
                self._write()

    def _write(self) -> None:
        """Pass the embedded images to the writing thread; one commit is in progress at a time."""
        self._wait()
        embedded, self._embedded = self._embedded, []
        if embedded:
            replaced = sum(replaces for _, replaces in embedded)
            self._replaced += replaced
            self._added += len(embedded) - replaced
            self._written = self._writer.submit(self._index.add, [item for item, _ in embedded], replace=True)

    def _update_paths(self) -> None:
        self._index.update_sources(self._moved)
        self._moved_count += len(self._moved)
        self._moved = {}

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()
            self._written = None


def _prefetch(
    pool: ThreadPoolExecutor, function: Callable[[Given], Made], given: Iterable[Given], most: int
) -> Iterator[Made]:
    """Yield function(x) for each x in order, computing at most `most` of them ahead."""
    running: deque[Future[Made]] = deque()
    for one in given:
        running.append(pool.submit(function, one))
        if len(running) >= most:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _read(
    entry: ImageEntry, known: Fingerprint | None, pre: Preprocessing, limits: DecodeLimits
) -> _Decoded | ImageProblem | _Unchanged:
    if not is_file(entry.path):
        return ImageProblem(path=str(entry.path), kind=ImageProblemKind.MISSING)
    try:
        data = read_bytes(entry.path, limits=limits)
        digest = hashlib.sha256(data).hexdigest()
        if known is not None and _is_same(known, digest, entry):
            path = entry.path.resolve()
            return _Unchanged(id=entry.id, moved_to=None if str(path) == known.source else path)
        file = decode_file(data, limits=limits)
    except UndecodableImageError as error:
        return ImageProblem(path=str(entry.path), kind=ImageProblemKind.UNREADABLE, detail=str(error))
    return _Decoded(
        entry=entry,
        sha256=digest,
        pixels=image_pixels(file.image, pre),
        thumbnail=make_thumbnail(file.image),
        size=(file.width, file.height),
        replaces=known is not None,
    )


def _is_same(known: Fingerprint, sha256: str, entry: ImageEntry) -> bool:
    return (known.sha256, known.label) == (sha256, entry.label) and same_metadata(known.metadata, entry.metadata)


def _embedded(embed: Callable[[Pixels], Vectors], images: Sequence[_Decoded]) -> list[tuple[NewItem, bool]]:
    """Return the items of a batch, and whether each replaces another."""
    vectors = embed(np.stack([one.pixels for one in images]))
    return [(_item(one, vector), one.replaces) for one, vector in zip(images, vectors, strict=True)]


def _item(one: _Decoded, vector: npt.NDArray[np.float32]) -> NewItem:
    return NewItem(
        id=one.entry.id,
        vector=vector,
        label=one.entry.label,
        source=str(one.entry.path.resolve()),
        source_sha256=one.sha256,
        metadata=one.entry.metadata,
        thumbnail=one.thumbnail,
        width=one.size[0],
        height=one.size[1],
    )
