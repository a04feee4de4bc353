"""Chooses how many images of a full batch pass a network at once."""

from typing import Final

SMALL_CHUNK: Final = 8
"""Images whose activations fit into the caches of most processors."""
_TRIES: Final = 3
_TOLERANCE: Final = 1.03
"""A whole batch may take this much longer, since its results arrive together: fewer switches of threads."""


class ChunkChoice:
    """The faster of two ways on this machine: a whole batch at once, or chunks of it.

    Which one is faster depends on the caches: of two machines with the same network, one embedded 15 % more images per
    second in chunks of 8 than of 32, the other 8 % fewer. So the first full batches run both ways in turn.
    """

    def __init__(self, batch: int) -> None:
        """Take the images of a full batch."""
        self._batch = batch
        self._seconds: dict[int, list[float]] = {SMALL_CHUNK: [], batch: []}

    def size(self, images: int) -> int:
        """Return the chunk for a batch of `images`."""
        small, whole = self._seconds[SMALL_CHUNK], self._seconds[self._batch]
        if len(whole) == _TRIES:
            return images if min(whole) <= _TOLERANCE * min(small) else SMALL_CHUNK
        return images if images == self._batch and len(whole) < len(small) else SMALL_CHUNK

    def record(self, images: int, chunk: int, seconds: float) -> None:
        """Note how long a batch took."""
        if images == self._batch and len(self._seconds[self._batch]) < _TRIES:
            self._seconds[self._batch if chunk == images else SMALL_CHUNK].append(seconds)
