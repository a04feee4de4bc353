"""The journal returns what was recorded, and refuses other evaluations and damaged files."""

from pathlib import Path

import numpy as np
import pytest

from hardrank.trainer.evaluation.journal import Journal, JournalError

PROBE = np.eye(3)


def test_blocks_come_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "folder")
    journal.open({"seed": 1}, PROBE)
    rows = np.array([4, 2])
    journal.record("CA+", rows, {"after": np.array([[1.0], [2.0]]), "blind": np.array([True, False])})
    journal.record("CA-", rows, {"after": np.array([[3.0], [4.0]])})
    journal.record("CA+", np.array([7]), {"after": np.array([[5.0]]), "blind": np.array([False])})
    again = Journal(tmp_path / "new" / "folder")
    again.open({"seed": 1}, PROBE + 1e-5)
    found = {tuple(rows.tolist()): columns for rows, columns in again.load("CA+")}
    assert set(found) == {(4, 2), (7,)}
    assert found[4, 2]["after"].tolist() == [[1.0], [2.0]]
    assert found[4, 2]["blind"].dtype == bool
    assert len(list(again.load("QA+"))) == 0


def test_recording_again_replaces(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open({}, PROBE)
    for value in (1.0, 2.0):
        journal.record("ES", np.array([3]), {"after": np.array([value])})
    [(_, columns)] = journal.load("ES")
    assert columns["after"].tolist() == [2.0]
    assert {path.name.split(".")[0] for path in tmp_path.iterdir()} == {"ES", "settings", "gallery"}


def test_another_evaluation_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path).open({"seed": 1, "options": {"steps": 32}}, PROBE)
    with pytest.raises(JournalError, match="options, seed differ"):
        Journal(tmp_path).open({"seed": 2, "options": {"steps": 8}}, PROBE)
    with pytest.raises(JournalError, match="other gallery"):
        Journal(tmp_path).open({"seed": 1, "options": {"steps": 32}}, -PROBE)


def test_damaged_settings_are_a_typed_error(tmp_path: Path) -> None:
    Journal(tmp_path).open({"seed": 1}, PROBE)
    (tmp_path / "settings.json").write_text('{"seed":', encoding="utf-8")
    with pytest.raises(JournalError, match="damaged"):
        Journal(tmp_path).open({"seed": 1}, PROBE)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open({}, PROBE)
    journal.record("ES", np.array([3]), {"after": np.array([1.0])})
    [path] = tmp_path.glob("ES.*.npz")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(JournalError, match=path.name):
        list(journal.load("ES"))
