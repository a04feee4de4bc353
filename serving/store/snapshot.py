"""The items and vectors of an index as of one commit. A snapshot never changes, so searches need no lock."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from hardrank.serving.store.item_table import NO_LABEL, TableChanges, TableState
from hardrank.serving.store.vector_file import VectorFile


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """Which vectors exist, and to which items they belong.

    A slot is the position of a vector in its file; a row is the number of an item (see `Item.row`).
    """

    state: TableState
    base_rows: npt.NDArray[np.int64]
    """(base_slots,), ascending: the rows of the vectors that compaction wrote."""
    vectors: npt.NDArray[np.float32]
    """(S,D) of norm 1, mapped from the file; includes those of deleted items."""
    labels: npt.NDArray[np.int32]
    """(S,), values of `label_codes`; −1: no label."""
    label_codes: Mapping[str, int]
    alive: npt.NDArray[np.bool_]
    """(S,): whether the slot belongs to an item."""
    size: int
    """Items."""

    @classmethod
    def load(cls, file: VectorFile, changes: TableChanges) -> Self:
        """Return the snapshot of a complete table."""
        state = changes.state
        slots = state.slots
        empty = cls(
            state=state,
            base_rows=file.base_rows(state.base_slots),
            vectors=file.view(slots),
            labels=np.full(slots, NO_LABEL, dtype=np.int32),
            label_codes={},
            alive=np.zeros(slots, dtype=np.bool_),
            size=0,
        )
        return empty._with_items(changes)

    def advanced(self, file: VectorFile, changes: TableChanges) -> Self:
        """Return the snapshot after further commits to the same volume."""
        state = changes.state
        more = state.slots - self.state.slots
        alive = np.concatenate([self.alive, np.zeros(more, dtype=np.bool_)])
        grown = replace(
            self,
            state=state,
            vectors=file.view(state.slots),
            labels=np.concatenate([self.labels, np.full(more, NO_LABEL, dtype=np.int32)]) if more else self.labels,
            alive=alive,
            size=self.size - len(changes.deleted),
        )
        alive[grown.slots_of(changes.deleted)] = False
        return grown._with_items(changes)

    def compacted(self, file: VectorFile, state: TableState) -> Self:
        """Return the snapshot of a volume that holds only the live vectors of this one, in the same order."""
        live = self.live_slots()
        return replace(
            self,
            state=state,
            base_rows=self.rows_of(live),
            vectors=file.view(len(live)),
            labels=self.labels[live],
            alive=np.ones(len(live), dtype=np.bool_),
        )

    @property
    def slots(self) -> int:
        """S, the number of vectors, including those of deleted items."""
        return len(self.alive)

    @property
    def deleted(self) -> int:
        """Number of slots that belong to no item."""
        return self.slots - self.size

    def rows_of(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows of slots, of any shape."""
        late = slots - self.state.base_slots + self.state.base_row
        if not len(self.base_rows):
            return late
        early = self.base_rows[np.minimum(slots, len(self.base_rows) - 1)]
        return np.where(slots < len(self.base_rows), early, late)

    def slots_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the slots of rows, of any shape; −1 for rows that are not in this volume."""
        late = rows - self.state.base_row + self.state.base_slots
        early = np.searchsorted(self.base_rows, rows)
        held = np.zeros(rows.shape, dtype=np.bool_)
        if len(self.base_rows):
            held = self.base_rows[np.minimum(early, len(self.base_rows) - 1)] == rows
        found = np.where(rows >= self.state.base_row, late, np.where(held, early, -1))
        return np.where((rows < 0) | (found >= self.slots), -1, found)

    def slots_with_label(self, label: str) -> npt.NDArray[np.int64]:
        """Return the slots of the items with a label, ascending."""
        code = self.label_codes.get(label)
        if code is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero((self.labels == code) & self.alive)

    def mask_of(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return (S,): whether a slot is one of `slots` (n,)."""
        mask = np.zeros(self.slots, dtype=np.bool_)
        mask[slots] = True
        return mask

    @cached_property
    def alive_bits(self) -> npt.NDArray[np.uint8]:
        """`alive` as a bit mask, lowest bit first, as FAISS takes it."""
        return np.packbits(self.alive, bitorder="little")

    @property
    def memory_bytes(self) -> int:
        """Bytes in memory, without the vectors."""
        return self.base_rows.nbytes + self.labels.nbytes + self.alive.nbytes

    def live_slots(self) -> npt.NDArray[np.int64]:
        """Return the slots of all items, ascending."""
        return np.flatnonzero(self.alive)

    def _with_items(self, changes: TableChanges) -> Self:
        """Fill in added items; called before the snapshot is shared."""
        codes = dict(self.label_codes)
        numbers = [codes.setdefault(name, len(codes)) for name in changes.names]
        slots = self.slots_of(changes.rows)
        self.alive[slots] = True
        # Index −1, no label, reads the last entry.
        self.labels[slots] = np.array([*numbers, NO_LABEL], dtype=np.int32)[changes.labels]
        return replace(self, label_codes=codes, size=self.size + len(slots))
