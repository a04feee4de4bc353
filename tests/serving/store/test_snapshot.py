"""Snapshots map rows to slots as a plain dictionary does, through additions, deletions and compactions."""

from pathlib import Path

import numpy as np
import pytest

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.snapshot import Snapshot
from tests.serving.conftest import make_manifest, new_items, unit_vectors


def _check(snapshot: Snapshot, expected: dict[int, tuple[np.ndarray, str | None]], rows_used: int) -> None:
    """Compare a snapshot with row → (vector, label)."""
    rows = np.arange(-2, rows_used + 3)
    slots = snapshot.slots_of(rows)
    alive = {int(row) for row, slot in zip(rows, slots, strict=True) if slot >= 0 and snapshot.alive[slot]}
    assert alive == set(expected)
    assert snapshot.size == len(expected) == np.count_nonzero(snapshot.alive)
    assert snapshot.deleted == snapshot.slots - snapshot.size
    held = slots[slots >= 0]
    assert np.array_equal(snapshot.rows_of(held), rows[slots >= 0])
    assert np.array_equal(snapshot.rows_of(snapshot.live_slots()), sorted(expected))
    for row, (vector, _) in expected.items():
        assert np.array_equal(snapshot.vectors[snapshot.slots_of(np.array([row]))[0]], vector)
    for label in {label for _, label in expected.values() if label is not None} | {"absent"}:
        own = [row for row, (_, given) in sorted(expected.items()) if given == label]
        assert snapshot.rows_of(snapshot.slots_with_label(label)).tolist() == own
    assert np.array_equal(np.unpackbits(snapshot.alive_bits, count=snapshot.slots, bitorder="little"), snapshot.alive)


@pytest.mark.parametrize("seed", range(4))
def test_rows_slots_and_labels_agree_with_a_dictionary(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    index = SearchIndex.create(tmp_path / "index", manifest=make_manifest(), maintenance=False)
    expected: dict[int, tuple[np.ndarray, str | None]] = {}
    used = 0
    with SearchIndex.open(index.folder, maintenance=False) as reader:
        for step in range(12):
            action = ("add", "delete", "add", "compact")[step % 4] if seed else generator.choice(["add", "compact"])
            if action == "add":
                vectors = unit_vectors(int(generator.integers(1, 30)), seed=100 * seed + step)
                items = new_items(vectors, start=used, labels=int(generator.integers(0, 4)))
                index.add(items)
                expected |= {used + n: (items[n].vector, items[n].label) for n in range(len(items))}
                used += len(items)
            elif action == "delete":
                deleted = generator.choice(sorted(expected), len(expected) // 2, replace=False).tolist()
                index.delete([f"item-{row}" for row in deleted])
                for row in deleted:
                    del expected[row]
            else:
                index.compact(threads=1)
            before = reader.snapshot
            size = before.size
            reader.refresh()
            assert before.size == np.count_nonzero(before.alive) == size  # a snapshot never changes
            _check(index.snapshot, expected, used)
            _check(reader.snapshot, expected, used)
