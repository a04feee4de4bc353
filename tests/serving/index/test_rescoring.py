"""Many equal items cost neither other queries much time, nor the server much memory."""

import tracemalloc
from pathlib import Path
from typing import Any, cast

import numpy as np

from hardrank.serving.ann.backend import Slots, Vectors
from hardrank.serving.index.rescoring import nearest_items
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.snapshot import Snapshot
from tests.serving.conftest import make_manifest, new_items, unit_vectors

DIMENSION = 256
TWINS = 3000


class Backend:
    """Records how many queries are searched for how many candidates."""

    def __init__(self, index: SearchIndex) -> None:
        self._backend = index._state.current.backend
        self.searches: list[tuple[int, int]] = []

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        self.searches.append((len(queries), count))
        return self._backend.candidates(snapshot, queries, count, label=label)


def test_only_the_queries_for_equal_items_are_searched_for_again_and_few_vectors_are_copied(tmp_path: Path) -> None:
    index = SearchIndex.create(tmp_path / "index", manifest=make_manifest(dimension=DIMENSION), maintenance=False)
    others = unit_vectors(200, DIMENSION, seed=1)
    index.add(new_items(others))
    twin = unit_vectors(1, DIMENSION)
    index.add([NewItem(id=f"twin-{number}", vector=twin[0]) for number in range(TWINS)])
    backend, queries = Backend(index), np.concatenate([others[:7], twin])
    tracemalloc.start()
    found = nearest_items(index.snapshot, cast(Any, backend), queries, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found[-1].rows.tolist() == list(range(200, 210))
    assert [one.rows[0] for one in found[:7]] == list(range(7))
    assert backend.searches == [(8, 10), (1, 40), (1, 160), (1, 640), (1, 2560), (1, 3200)]
    assert peak < TWINS * DIMENSION * 4 / 2
