"""Changes in several indexes: all or none, and a repeated request completes an interrupted one."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardrank.serving.build import main
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.item_writer import ItemWriter
from hardrank.serving.store.errors import IndexBusyError, ReadOnlyIndexError, UnfinishedChangeError
from hardrank.serving.store.items import DuplicateItemError, NewItem, UnknownItemError
from tests.serving.conftest import make_manifest, unit_vectors

SCRIPT = Path(__file__).with_name("killed_writer.py")
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


def _refuse(_: object) -> None:
    raise IndexBusyError("busy")


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
    for same_in_python in (False, 0.0):
        with pytest.raises(DuplicateItemError):
            writer.add({key: replace(item, metadata={"seed": same_in_python}) for key, item in _items("a").items()})


@pytest.mark.parametrize("failing", KEYS)
def test_an_addition_that_one_index_refuses_is_undone_in_the_others(
    indexes: dict[str, SearchIndex], failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ItemWriter(indexes)
    writer.add(_items("before"))
    with monkeypatch.context() as patch:
        patch.setattr(indexes[failing], "add", _refuse)
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


def _killed(folder: Path, *arguments: str) -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.serving.search.killed_writer", str(folder), *arguments],
        cwd=SCRIPT.parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return dict(json.loads(finished.stdout))


def test_a_change_is_made_in_all_indexes_or_in_none_wherever_the_process_is_killed(tmp_path: Path) -> None:
    findings = _killed(tmp_path, "steps")
    assert findings["wrong"] == []
    assert findings["kills"] == 14
    assert findings["undone"] >= 4


def test_what_an_index_alone_acknowledges_after_a_killed_change_is_not_undone_with_it(tmp_path: Path) -> None:
    findings = _killed(tmp_path, "alone")
    assert findings["wrong"] == []
    assert (findings["acknowledged"], findings["refused"]) == (12, 16)


@pytest.mark.slow
def test_a_change_is_made_in_all_indexes_or_in_none_whenever_the_process_is_killed(tmp_path: Path) -> None:
    findings = _killed(tmp_path, "times", "100")
    assert findings["wrong"] == []
    assert findings["acknowledged"] > 10
    assert findings["undone"] > 0


def _interrupted(indexes: dict[str, SearchIndex]) -> None:
    """Leave an addition unfinished in two of three indexes, as a killed process does."""
    with pytest.MonkeyPatch.context() as patch:
        for key, change in (("third", "add"), ("benign", "delete"), ("robust", "delete")):
            patch.setattr(indexes[key], change, _refuse)
        with pytest.raises(IndexBusyError):
            ItemWriter(indexes).add(_items("a"))


def _interrupted_deletion(indexes: dict[str, SearchIndex], failing: str) -> None:
    """Leave the deletion of an item that is in all indexes unfinished, as an index that cannot be written does."""
    ItemWriter(indexes).add(_items("a"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexes[failing], "delete", _refuse)
        with pytest.raises(IndexBusyError):
            ItemWriter(indexes).delete("a")


def test_an_addition_that_cannot_be_undone_is_undone_before_the_next_change(
    indexes: dict[str, SearchIndex], caplog: pytest.LogCaptureFixture
) -> None:
    _interrupted(indexes)
    assert _ids(indexes) == [("a",), ("a",), ()]
    assert "cannot be undone now, but will be before the next change: busy" in caplog.text
    assert "Traceback" not in caplog.text
    ItemWriter(indexes).add(_items("b"))
    assert set(_ids(indexes)) == {("b",)}


def test_an_addition_repeated_after_one_that_cannot_be_undone_is_kept(indexes: dict[str, SearchIndex]) -> None:
    _interrupted(indexes)
    assert ItemWriter(indexes).add(_items("a"))
    assert set(_ids(indexes)) == {("a",)}
    ItemWriter(indexes).add(_items("b"))
    assert set(_ids(indexes)) == {("a", "b")}


def test_a_deletion_that_one_index_refuses_is_completed_before_the_next_change(indexes: dict[str, SearchIndex]) -> None:
    _interrupted_deletion(indexes, "robust")
    ItemWriter(indexes).add(_items("b"))
    assert set(_ids(indexes)) == {("b",)}


@pytest.mark.parametrize("failing", KEYS)
def test_an_addition_after_an_interrupted_deletion_is_kept(indexes: dict[str, SearchIndex], failing: str) -> None:
    _interrupted_deletion(indexes, failing)
    assert ItemWriter(indexes).add(_items("a"))
    ItemWriter(indexes).add(_items("b"))
    assert set(_ids(indexes)) == {("a", "b")}


@pytest.mark.parametrize("failing", KEYS)
def test_repeating_an_interrupted_deletion_completes_it(indexes: dict[str, SearchIndex], failing: str) -> None:
    _interrupted_deletion(indexes, failing)
    ItemWriter(indexes).delete("a")
    assert set(_ids(indexes)) == {()}
    assert not list(indexes["benign"].folder.glob("pending-*.json"))


def test_a_change_of_one_index_settles_interrupted_ones_first(indexes: dict[str, SearchIndex]) -> None:
    indexes["benign"].add([_items("b")["benign"]])
    _interrupted(indexes)
    ItemWriter(indexes).delete("b")
    assert set(_ids(indexes)) == {()}


@pytest.mark.parametrize("key", KEYS)
def test_an_item_cannot_change_until_all_indexes_of_its_interrupted_change_are_served(
    indexes: dict[str, SearchIndex], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    _interrupted(indexes)
    alone = ItemWriter({key: indexes[key]})
    alone.repair()
    assert "serve both together once" in caplog.text
    with pytest.raises(UnfinishedChangeError, match="also in the index"):
        alone.add({key: _items("a")[key]})
    if indexes[key].rows(["a"]):
        with pytest.raises(UnfinishedChangeError):
            alone.delete("a")
    assert alone.add({key: _items("b")[key]})
    alone.delete("b")
    assert _ids(indexes) == [("a",), ("a",), ()]
    ItemWriter(dict(reversed(indexes.items()))).repair()
    assert set(_ids(indexes)) == {()}
    assert not [path for index in indexes.values() for path in index.folder.glob("pending-*.json")]


def test_one_index_is_not_changed_as_a_whole_before_the_interrupted_change_is_settled(
    indexes: dict[str, SearchIndex], capsys: pytest.CaptureFixture[str]
) -> None:
    _interrupted(indexes)
    command = ["--out", str(indexes["benign"].folder), "--compact"]
    assert main(command) == 2
    assert "serve both together once" in capsys.readouterr().err
    assert _ids(indexes) == [("a",), ("a",), ()]
    ItemWriter(indexes).settle()
    assert set(_ids(indexes)) == {()}
    assert main(command) == 0


def test_a_read_only_server_reports_an_interrupted_change(
    indexes: dict[str, SearchIndex], caplog: pytest.LogCaptureFixture
) -> None:
    _interrupted(indexes)
    reading = {key: SearchIndex.open(index.folder, maintenance=False) for key, index in indexes.items()}
    with caplog.at_level(logging.WARNING):
        ItemWriter(reading).repair()
    assert str(indexes["benign"].folder) in caplog.text
    with pytest.raises(ReadOnlyIndexError, match="for reading"):
        ItemWriter(reading).add(_items("a"))
    assert _ids(indexes) == [("a",), ("a",), ()]
    for index in reading.values():
        index.close()
