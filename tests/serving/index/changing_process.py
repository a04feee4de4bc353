"""A process that changes an index and reports what it does, to be killed at any moment.

    python changing_process.py INDEX SEED

Before a change it prints `begin {…}`, after it `done`. A vector is a function of its item's id and turn.
"""

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem


def vector_of(id: str, turn: int, dimension: int) -> npt.NDArray[np.float32]:
    """Return the vector that an item has in a turn."""
    vector = np.random.default_rng([int(id[5:]), turn]).normal(size=dimension).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def item_of(id: str, turn: int, dimension: int) -> NewItem:
    """Return the item with an id in a turn."""
    return NewItem(id=id, vector=vector_of(id, turn, dimension), label=f"turn-{turn}", metadata={"turn": turn})


def main() -> None:
    """Add, replace, delete and compact until killed."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    generator = np.random.default_rng(seed)
    index = SearchIndex.open(folder, writable=True)
    dimension = index.manifest.dimension
    turn = 1000 * seed
    while True:
        turn += 1
        ids = index.ids(count=100_000)
        fresh = [f"item-{number}" for number in 10_000 * turn + np.arange(generator.integers(1, 120))]
        chosen = (
            list(generator.choice(ids, min(len(ids), int(generator.integers(1, 60))), replace=False)) if ids else []
        )
        action = generator.choice(["add", "add", "replace", "delete", "compact"])
        if action == "add" or not chosen:
            _say({"turn": turn, "put": fresh, "deleted": []})
            index.add([item_of(id, turn, dimension) for id in fresh])
        elif action == "replace":
            both = [*fresh[:20], *chosen]
            _say({"turn": turn, "put": both, "deleted": []})
            index.add([item_of(id, turn, dimension) for id in both], replace=True)
        elif action == "delete":
            _say({"turn": turn, "put": [], "deleted": chosen})
            index.delete(chosen)
        else:
            _say({"turn": turn, "put": [], "deleted": []})
            index.compact(threads=1)
        print("done", flush=True)


def _say(change: dict[str, object]) -> None:
    print("begin", json.dumps(change), flush=True)


if __name__ == "__main__":
    main()
