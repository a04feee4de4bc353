"""Vectors on disk: float32 (slot, D), appended and synced before the items they belong to are committed.

Bytes past the last committed slot are preallocated space or the rest of a write that did not finish; the next append
overwrites them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.models.files import atomic_file, atomic_path
from hardrank.serving.store.errors import IndexDamagedError, IndexWriteError

_FLOAT: Final = np.dtype("<f4")
_ROW: Final = np.dtype("<i8")
_BLOCK: Final = 16_384
_MAX_PREALLOCATED_BYTES: Final = 64 * 2**20
"""Maximum that a file grows beyond its contents, so that readers rarely need to map it again."""


class VectorFile:
    """One volume of vectors and, if compaction wrote it, the rows that its first vectors belong to."""

    def __init__(self, folder: Path, volume: int, dimension: int) -> None:
        self.volume = volume
        """Number of the volume."""
        self._path = vectors_path(folder, volume)
        self._rows = _rows_path(folder, volume)
        self._dimension = dimension
        self._map: npt.NDArray[np.float32] = np.empty((0, dimension), dtype=np.float32)

    def view(self, slots: int) -> npt.NDArray[np.float32]:
        """Return the first `slots` vectors, mapped read-only from the file; the array stays valid as the file grows."""
        if slots > len(self._map):
            self._map = self._mapped(slots)
        return self._map[:slots]

    def base_rows(self, slots: int) -> npt.NDArray[np.int64]:
        """Return the rows of the first `slots` vectors, which compaction wrote."""
        if not slots:
            return np.empty(0, dtype=np.int64)
        try:
            rows = np.fromfile(self._rows, dtype=_ROW)
        except OSError as error:
            raise IndexDamagedError(f"{self._rows} cannot be read ({error.strerror}); build the index again") from error
        if len(rows) != slots:
            raise IndexDamagedError(f"{self._rows} has {len(rows)} rows instead of {slots}; build the index again")
        return rows.astype(np.int64, copy=False)

    def write(self, slot: int, vectors: npt.NDArray[np.float32]) -> None:
        """Write vectors (n,D) from `slot` on and sync them to disk. Raises `IndexWriteError`."""
        data = np.ascontiguousarray(vectors, dtype=_FLOAT).tobytes()
        try:
            self._write(slot * self._dimension * _FLOAT.itemsize, data)
        except OSError as error:
            raise IndexWriteError(
                f"{self._path} cannot be written ({error.strerror}); check the disk space and permissions"
            ) from error

    def _write(self, start: int, data: bytes) -> None:
        handle = os.open(self._path, os.O_RDWR)
        try:
            end = start + len(data)
            if end > os.fstat(handle).st_size:
                os.ftruncate(handle, end + min(end // 4, _MAX_PREALLOCATED_BYTES))
            rest = memoryview(data)
            while rest:
                written = os.pwrite(handle, rest, start)
                rest, start = rest[written:], start + written
            os.fsync(handle)
        finally:
            os.close(handle)

    def _mapped(self, slots: int) -> npt.NDArray[np.float32]:
        size = _FLOAT.itemsize * self._dimension
        try:
            there = self._path.stat().st_size // size
            if there >= slots:
                mapped = np.memmap(self._path, dtype=_FLOAT, mode="r", shape=(there, self._dimension))
                return np.asarray(mapped)  # the same memory; a plain array is sliced twice as fast
        except OSError as error:
            raise IndexDamagedError(f"{self._path} cannot be read ({error.strerror}); build the index again") from error
        raise IndexDamagedError(f"{self._path} has {there} vectors instead of {slots}; build the index again")


def create_volume(folder: Path, volume: int) -> None:
    """Create an empty volume."""
    with vectors_path(folder, volume).open("wb") as stream:
        os.fsync(stream.fileno())


def write_volume(
    folder: Path,
    volume: int,
    vectors: npt.NDArray[np.float32],
    slots: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    progress: Callable[[int, int], None],
) -> None:
    """Write a volume of the vectors at `slots` (n,), which belong to `rows` (n,); `progress` gets (done, total).

    Raises `IndexWriteError`.
    """
    try:
        with atomic_path(_rows_path(folder, volume)) as unfinished:
            unfinished.write_bytes(rows.astype(_ROW).tobytes())
        with atomic_file(vectors_path(folder, volume)) as stream:
            for start in range(0, len(slots), _BLOCK):
                part = slots[start : start + _BLOCK]
                stream.write(vectors[part].astype(_FLOAT, copy=False).tobytes())
                progress(start + len(part), len(slots))
    except OSError as error:
        raise IndexWriteError(
            f"{vectors_path(folder, volume)} cannot be written ({error.strerror}); check the disk space and permissions"
        ) from error


def remove_other_volumes(folder: Path, volume: int) -> None:
    """Remove volumes that compactions replaced or left unfinished; whoever has one open can still read it."""
    kept = {vectors_path(folder, volume), _rows_path(folder, volume)}
    for path in [*folder.glob("vectors*.f32"), *folder.glob("vectors*.rows"), *folder.glob(".vectors*.unfinished")]:
        if path not in kept:
            path.unlink(missing_ok=True)


def vectors_path(folder: Path, volume: int) -> Path:
    """Return the file of a volume."""
    return folder / ("vectors.f32" if volume == 1 else f"vectors-{volume:04}.f32")


def _rows_path(folder: Path, volume: int) -> Path:
    return vectors_path(folder, volume).with_suffix(".rows")
