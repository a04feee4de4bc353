"""Changes in several indexes: all or none, and a repeated request completes an interrupted one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.models import ItemWriter
from hardrank.serving.store.errors import IndexBusyError
from hardrank.serving.store.items import DuplicateItemError, NewItem, UnknownItemError
from tests.serving.conftest import make_manifest, unit_vectors

KEYS = ("benign", "robust", "third")


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[dict[str, SearchIndex]]:
    made = {key: SearchIndex.create(tmp_path / key, manifest=make_manifest()) for key in KEYS}
    yield made
    for index in made.values():
        index.close()


def _items(id: str, *, seed: int = 0, label: str | None = "cat") -> dict[str, NewItem]:
    """One image, as one item per index."""
    vectors = unit_vectors(len(KEYS), seed=seed)
    return {
        key: NewItem(id=id, vector=vector, label=label, source_sha256=f"{seed:064x}", metadata={"seed": seed})
        for key, vector in zip(KEYS, vectors, strict=True)
    }


def _ids(indexes: Mapping[str, SearchIndex]) -> list[tuple[str, ...]]:
    return [tuple(index.ids()) for index in indexes.values()]


def test_add_and_delete_in_all_indexes(indexes: dict[str, SearchIndex]) -> None:
    writer, items = ItemWriter(indexes), _items("a")
    assert writer.add(items)
    assert set(_ids(indexes)) == {("a",)}
    for key, index in indexes.items():
        np.testing.assert_array_equal(index.vector("a"), items[key].vector)
    writer.delete("a")
    assert set(_ids(indexes)) == {()}
    with pytest.raises(UnknownItemError):
        writer.delete("a")


def test_adding_the_same_image_again_changes_nothing(indexes: dict[str, SearchIndex]) -> None:
    writer = ItemWriter(indexes)
    writer.add(_items("a"))
    before = [index.generation for index in indexes.values()]
    assert not writer.add(_items("a"))
    assert [index.generation for index in indexes.values()] == before


@pytest.mark.parametrize("other", [_items("a", seed=1), _items("a", label="dog"), _items("a", label=None)])
def test_an_id_belongs_to_one_image_with_one_label(indexes: dict[str, SearchIndex], other: dict[str, NewItem]) -> None:
    writer = ItemWriter(indexes)
    writer.add(_items("a"))
    with pytest.raises(DuplicateItemError, match="delete it"):
        writer.add(other)
    assert indexes["benign"].item("a").label == "cat"


def test_an_id_belongs_to_one_image_with_one_set_of_metadata(indexes: dict[str, SearchIndex]) -> None:
    writer = ItemWriter(indexes)
    writer.add(_items("a"))
    with pytest.raises(DuplicateItemError):
        writer.add({key: replace(item, metadata={"seed": 0, "more": True}) for key, item in _items("a").items()})


@pytest.mark.parametrize("failing", KEYS)
def test_an_addition_that_one_index_refuses_is_undone_in_the_others(
    indexes: dict[str, SearchIndex], failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(items: object) -> None:
        raise IndexBusyError("busy")

    writer = ItemWriter(indexes)
    writer.add(_items("before"))
    with monkeypatch.context() as patch:
        patch.setattr(indexes[failing], "add", refuse)
        with pytest.raises(IndexBusyError):
            writer.add(_items("a"))
    assert set(_ids(indexes)) == {("before",)}
    assert writer.add(_items("a"))
    assert set(_ids(indexes)) == {("before", "a")}


@pytest.mark.parametrize("done", [1, 2])
def test_repeating_a_request_completes_an_interrupted_one(indexes: dict[str, SearchIndex], done: int) -> None:
    items = _items("a")
    for key in KEYS[:done]:
        indexes[key].add([items[key]])
    writer = ItemWriter(indexes)
    assert writer.add(items)
    assert set(_ids(indexes)) == {("a",)}
    for key in KEYS[:done]:
        indexes[key].delete(["a"])
    writer.delete("a")
    assert set(_ids(indexes)) == {()}


def test_an_interrupted_addition_of_another_image_keeps_the_id(indexes: dict[str, SearchIndex]) -> None:
    indexes["robust"].add([_items("a", seed=1)["robust"]])
    with pytest.raises(DuplicateItemError):
        ItemWriter(indexes).add(_items("a"))
    assert _ids(indexes) == [(), ("a",), ()]
