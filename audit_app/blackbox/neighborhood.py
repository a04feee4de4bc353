"""Which items lead to a target, learned from the visible lists of gallery items.

If only k of N items are visible, a target is usually outside the list, and its rank says nothing. But lists of gallery
items form a graph: an edge from y to x, as long as the position of x in the list of y. The length of the shortest path
from the visible items to the target tells how near they are to it.
"""

import heapq
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Start = Sequence[tuple[int, int]]
"""Items from which the exploration of a source begins, with their distances to it."""


class ListReader(Protocol):
    """Reads visible lists: rows of the gallery, best first, and N for items that the gallery lacks."""

    @property
    def size(self) -> int:
        """N, items of the gallery."""

    @property
    def visible(self) -> int:
        """k, length of a list."""

    def benign(self) -> Tensor:
        """Return the lists (G,k) of the benign images."""

    def lists_of(self, items: Tensor) -> Tensor:
        """Return the lists (n,k) of the gallery's images `items` (n,)."""


class _Frontier:
    """The items with a known path to one source (Dijkstra's algorithm)."""

    def __init__(self, start: Start, size: int) -> None:
        self.lengths = {item: length for item, length in start if item < size}
        self._size = size
        self._queue = [(length, item) for item, length in self.lengths.items()]
        self._read: set[int] = set()
        heapq.heapify(self._queue)

    def next(self) -> int | None:
        """Return the nearest item whose list has not been read."""
        while self._queue:
            _, item = heapq.heappop(self._queue)
            if item not in self._read:
                self._read.add(item)
                return item
        return None

    def add(self, item: int, found: Sequence[int]) -> None:
        """Add the list of `item`."""
        for place, other in enumerate(found):
            length = self.lengths[item] + place
            if other < self._size and length < self.lengths.get(other, length + 1):
                self.lengths[other] = length
                heapq.heappush(self._queue, (length, other))


def explore(reader: ListReader, starts: Sequence[Sequence[Start]], *, lists: int) -> tuple[Tensor, Tensor]:
    """Read lists, those nearest to each source first.

    Args:
        reader: Reads lists.
        starts: For each image, and each of its S sources, where the exploration begins.
        lists: Largest number of lists for each image, shared by its sources.

    Returns:
        The lengths of the paths from each item to each source (G,S,N+1), divided by one more than the longest, which is
        the length for unknown items and for N; and the number of lists read (G,).
    """
    frontiers = [[_Frontier(start, reader.size) for start in sources] for sources in starts]
    spent = torch.zeros(len(starts), dtype=torch.long)
    for _ in range(lists // max(1, len(starts[0]))):
        pending = [
            (image, frontier, item)
            for image, sources in enumerate(frontiers)
            for frontier in sources
            if (item := frontier.next()) is not None
        ]
        if not pending:
            break
        read = reader.lists_of(torch.tensor([item for _, _, item in pending])).tolist()
        for (image, frontier, item), found in zip(pending, read, strict=True):
            frontier.add(item, found)
            spent[image] += 1
    return torch.stack([torch.stack([_lengths(one, reader.size) for one in sources]) for sources in frontiers]), spent


def _lengths(frontier: _Frontier, size: int) -> Tensor:
    """Return the lengths (N+1,) in [0,1]."""
    unknown = max(frontier.lengths.values(), default=0) + 1
    found = torch.ones(size + 1)
    items = torch.tensor(list(frontier.lengths), dtype=torch.long)
    found[items] = torch.tensor([length / unknown for length in frontier.lengths.values()])
    return found
