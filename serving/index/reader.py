"""Reading an index: search it, and look up its items.

Searches use a snapshot, which never changes; a change creates a new one and replaces the old.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.index.rescoring import ScoredRows, nearest_items
from hardrank.serving.index.state import IndexState
from hardrank.serving.index.stats import IndexStats, index_stats
from hardrank.serving.store.errors import IndexBusyError, InvalidSearchError
from hardrank.serving.store.item_table import Fingerprint
from hardrank.serving.store.items import Item, ListedItem, Match, UnknownItemError, UnknownLabelError, check_vectors
from hardrank.serving.store.snapshot import Snapshot

_TRIES: Final = 5


class IndexReader:
    """What can be read from an open index. Any method may be called from several threads at once."""

    def __init__(self, state: IndexState) -> None:
        self.folder = state.folder
        self.manifest = state.manifest
        """The model and options of the index."""
        self._state = state
        self._table = state.table

    @property
    def size(self) -> int:
        """Number of items."""
        return self._state.current.snapshot.size

    @property
    def generation(self) -> int:
        """Number of commits that this object has loaded."""
        return self._state.current.snapshot.state.generation

    @property
    def snapshot(self) -> Snapshot:
        """What searches use now: vectors by slot, labels, and which slots are alive. It never changes."""
        return self._state.current.snapshot

    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        label: str | None = None,
        exclude: Sequence[str | None] = (),
        fewer: bool = False,
    ) -> list[list[Match]]:
        """Find the items most similar to each query.

        Args:
            queries: (Q,D), of norm 1.
            k: Number of items to find for each query, from 1 to `size`. Fewer are found if the label has fewer items,
                or if one of k items is excluded.
            label: Search only the items with this label.
            exclude: For each query the id of an item to leave out (such as the query itself), or None.
            fewer: Allow a k above `size`, and find all items then: for a k that was valid when it was chosen, while
                others delete items.

        Returns:
            For each query its matches, best first; equal scores in the order of addition. A score is the cosine
            similarity, computed from the vectors themselves whatever the backend.

        Raises:
            InvalidSearchError: k is out of range, a query is not of norm 1, or the index is empty.
            UnknownLabelError: No item has the label.
        """
        queries = np.asarray(queries, dtype=np.float32)
        self._check_search(queries, k, label, exclude, fewer=fewer)
        for _ in range(_TRIES):
            found = self._nearest(queries, k, label, exclude)
            rows = {row for one in found for row in one.rows.tolist()}
            items = self._table.items(sorted(rows))
            if len(items) == len(rows):
                break
            self.refresh()  # an item was deleted since the snapshot: search again without it
        return [_matches(one, items) for one in found]

    def item(self, id: str) -> Item:
        """Return an item; raises `UnknownItemError`."""
        return self._table.item(id)

    def vector(self, id: str) -> npt.NDArray[np.float32]:
        """Return an item's vector (D,); raises `UnknownItemError`."""
        vector: npt.NDArray[np.float32] = self.vectors([id])[0]
        return vector

    def vectors(self, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the vectors (n,D) of items, in the order of `ids`; raises `UnknownItemError`."""
        snapshot, slots = self._slots(ids)
        return np.array(snapshot.vectors[slots], dtype=np.float32)

    def iter_vectors(self, ids: Sequence[str], *, block: int = 4096) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the vectors of items in blocks (≤ block,D), in the order of `ids`, without holding them all.

        All blocks come from the state of the index at the call, whatever changes meanwhile. Raises `UnknownItemError`
        at the call, not in the middle.
        """
        if block < 1:
            raise InvalidSearchError(f"block is {block}; give at least 1 vector")
        snapshot, slots = self._slots(ids)
        return (
            np.array(snapshot.vectors[slots[start : start + block]], dtype=np.float32)
            for start in range(0, len(slots), block)
        )

    def thumbnail(self, id: str) -> bytes:
        """Return an item's thumbnail, a PNG, empty if it has none; raises `UnknownItemError`."""
        return self._table.thumbnail(id)

    def original(self, id: str) -> bytes | None:
        """Return the file an item was indexed from; None if it is unknown, gone, changed, or too large."""
        source = self._table.source(id)
        return None if source is None else source.read()

    def ids(self, *, start: int = 0, count: int = 100, label: str | None = None) -> list[str]:
        """Return at most `count` ids in the order of addition, after skipping `start` of them.

        A deletion between two calls shifts what follows: to read page after page use `list_items`.
        """
        if start < 0 or count < 0:
            raise InvalidSearchError(f"start is {start} and count {count}; neither can be negative")
        return self._table.ids(start=start, count=count, label=label)

    def list_items(self, *, after: int = -1, count: int | None = None, label: str | None = None) -> list[ListedItem]:
        """Return items in the order of addition, with one query: ids, labels and files.

        Args:
            after: Row of the last item of the page before; −1 to start. Pages neither skip nor repeat an item, whatever
                is added or deleted between them, even that last item itself.
            count: Items to return at most; None for all.
            label: Return only the items with this label.

        Raises:
            InvalidSearchError: `count` is negative.
        """
        if count is not None and count < 0:
            raise InvalidSearchError(f"count is {count}; it cannot be negative")
        return self._table.list_items(after=after, count=count, label=label)

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """Return id → row of the ids that are indexed."""
        return self._table.rows(ids)

    def source_hashes(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Return id → SHA-256 of the file it was indexed from, of the ids that are indexed."""
        return self._table.source_hashes(ids)

    def fingerprints(self, ids: Sequence[str]) -> dict[str, Fingerprint]:
        """Return id → fingerprint of the ids that are indexed, to find out which images have changed."""
        return self._table.fingerprints(ids)

    def labels(self) -> dict[str, int]:
        """Return label → number of items, in alphabetical order."""
        return self._table.labels()

    def stats(self) -> IndexStats:
        """Return the size and resource use of the index."""
        return index_stats(self._state)

    def refresh(self) -> bool:
        """Load what other processes have committed; return whether there was anything."""
        return self._state.refresh()

    def _check_search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        label: str | None,
        exclude: Sequence[str | None],
        *,
        fewer: bool,
    ) -> None:
        snapshot = self._state.current.snapshot
        if not snapshot.size:
            raise InvalidSearchError(f"the index {self.folder.name} is empty; add items before searching")
        whole = isinstance(k, int | np.integer) and not isinstance(k, bool)
        if not whole or k < 1 or (k > snapshot.size and not fewer):
            raise InvalidSearchError(f"k is {k}; give a whole number from 1 to {snapshot.size}, the size of the index")
        if wrong := check_vectors(queries, self.manifest.dimension):
            raise InvalidSearchError(f"queries: {wrong}")
        if exclude and len(exclude) != len(queries):
            raise InvalidSearchError(f"{len(exclude)} items to exclude for {len(queries)} queries; give one each")
        if label is not None and not len(snapshot.slots_with_label(label)):
            raise UnknownLabelError(f"no item has the label {label!r}")

    def _nearest(
        self, queries: npt.NDArray[np.float32], k: int, label: str | None, exclude: Sequence[str | None]
    ) -> list[ScoredRows]:
        current = self._state.current
        excluded = None
        if exclude:
            rows = self._table.rows([id for id in exclude if id is not None])
            own = [-1 if id is None else rows.get(id, -1) for id in exclude]
            excluded = current.snapshot.slots_of(np.array(own, dtype=np.int64))
        return nearest_items(current.snapshot, current.backend, queries, k, label=label, excluded=excluded)

    def _slots(self, ids: Sequence[str]) -> tuple[Snapshot, npt.NDArray[np.int64]]:
        """Return a snapshot that holds the vectors of all these items, and their slots (n,) in it."""
        for _ in range(_TRIES):
            rows = self._table.rows(ids)
            if missing := [id for id in ids if id not in rows]:
                raise UnknownItemError(f"no item has the id {missing[0]!r}")
            snapshot = self._state.current.snapshot
            slots = snapshot.slots_of(np.array([rows[id] for id in ids], dtype=np.int64))
            if (slots >= 0).all():
                return snapshot, slots
            self.refresh()  # an item was added since the snapshot, or its vector has moved
        raise IndexBusyError(f"{self.folder} changes faster than it can be read; try again")


def _matches(found: ScoredRows, items: dict[int, Item]) -> list[Match]:
    scored = zip(found.rows.tolist(), found.scores.tolist(), strict=True)
    existing = [(items[row], score) for row, score in scored if row in items]
    return [Match(item, score, rank) for rank, (item, score) in enumerate(existing, start=1)]
