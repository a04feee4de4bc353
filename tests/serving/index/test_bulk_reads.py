"""Reading many items at once returns what reading them one by one does."""

import threading

import numpy as np
import pytest

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.errors import InvalidSearchError
from hardrank.serving.store.items import UnknownItemError
from tests.serving.conftest import new_items, unit_vectors

GONE = [0, 7, 8, 9, 150, 299]


@pytest.fixture
def filled(index: SearchIndex) -> SearchIndex:
    """300 items with labels, less some that were deleted; item-5 was replaced, so it comes last."""
    index.add(new_items(unit_vectors(300), labels=3))
    index.delete([f"item-{number}" for number in GONE])
    index.add(new_items(unit_vectors(1, seed=4), start=5), replace=True)
    return index


def _expected_ids() -> list[str]:
    return [f"item-{number}" for number in range(300) if number not in {*GONE, 5}] + ["item-5"]


def test_all_items_are_listed_in_row_order_with_their_fields(filled: SearchIndex) -> None:
    listed = filled.list_items()
    assert [one.id for one in listed] == _expected_ids() == filled.ids(count=1000)
    for one in listed:
        item = filled.item(one.id)
        assert (one.row, one.label, one.source) == (item.row, item.label, None)


def test_a_label_and_a_page_are_parts_of_the_whole_listing(filled: SearchIndex) -> None:
    listed = filled.list_items()
    labeled = [one for one in listed if one.label == "label-1"]
    assert filled.list_items(label="label-1") == labeled
    assert filled.list_items(after=listed[9].row, count=20) == listed[10:30]
    assert filled.list_items(after=labeled[9].row, count=20, label="label-1") == labeled[10:30]
    assert filled.list_items(count=0) == filled.list_items(after=listed[-1].row) == []
    with pytest.raises(InvalidSearchError, match="count is -1"):
        filled.list_items(count=-1)


@pytest.mark.parametrize("label", [None, "label-1"])
def test_deleting_while_paging_neither_skips_nor_repeats_an_item(index: SearchIndex, label: str | None) -> None:
    index.add(new_items(unit_vectors(200), labels=2))
    expected = [one.id for one in index.list_items(label=label)]
    seen: list[str] = []
    after = -1
    while page := index.list_items(after=after, count=15, label=label):
        seen += [one.id for one in page]
        after = page[-1].row
        index.delete(sorted({one.id for one in page[::2]} | {page[-1].id}))  # the cursor's item, too
    assert seen == expected


@pytest.mark.parametrize("compacted", [False, True])
def test_vectors_of_many_items_equal_those_of_each(filled: SearchIndex, compacted: bool) -> None:
    if compacted:
        filled.compact(threads=1)
        filled.add(new_items(unit_vectors(20, seed=5), start=500))
    ids = filled.ids(count=1000)[::-1]
    one_by_one = np.stack([filled.vector(id) for id in ids])
    assert np.array_equal(filled.vectors(ids), one_by_one)
    blocks = list(filled.iter_vectors(ids, block=100))
    assert [len(block) for block in blocks] == [100] * (len(ids) // 100) + [len(ids) % 100]
    assert np.array_equal(np.concatenate(blocks), one_by_one)
    assert filled.vectors([]).shape == (0, filled.manifest.dimension)
    assert list(filled.iter_vectors([])) == []


def test_blocks_of_vectors_come_from_one_state(filled: SearchIndex) -> None:
    ids = filled.ids(count=1000)
    expected = filled.vectors(ids)
    blocks = filled.iter_vectors(ids, block=50)
    first = next(blocks)
    filled.delete(ids[60:120])
    filled.add(new_items(unit_vectors(1, seed=8), start=int(ids[200].removeprefix("item-"))), replace=True)
    filled.compact(threads=1)
    assert np.array_equal(np.concatenate([first, *blocks]), expected)


def test_vectors_of_unknown_items_are_refused_at_the_call(filled: SearchIndex) -> None:
    with pytest.raises(UnknownItemError, match="'item-0'"):
        filled.vectors(["item-1", "item-0"])
    with pytest.raises(UnknownItemError, match="'item-0'"):
        filled.iter_vectors(["item-1", "item-0"])
    with pytest.raises(InvalidSearchError, match="block is 0"):
        filled.iter_vectors(["item-1"], block=0)


def test_a_reader_finds_vectors_that_another_process_committed(filled: SearchIndex) -> None:
    with SearchIndex.open(filled.folder, maintenance=False) as reader:
        vectors = unit_vectors(3, seed=6)
        filled.add(new_items(vectors, start=600))
        assert np.array_equal(reader.vectors(["item-602", "item-600"]), vectors[[2, 0]])


def test_reading_without_maintenance_starts_no_thread_and_leaves_no_file(filled: SearchIndex) -> None:
    filled.close()
    before = sorted(path.name for path in filled.folder.iterdir())
    threads = threading.active_count()
    with SearchIndex.open(filled.folder, maintenance=False) as reader:
        assert len(reader.list_items()) == reader.size == 294
        assert threading.active_count() == threads
    assert sorted(path.name for path in filled.folder.iterdir()) == before
