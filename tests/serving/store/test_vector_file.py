"""Vectors are read back as they were written, also through a mapping that is older than the file's growth."""

from pathlib import Path

import numpy as np
import pytest

from hardrank.serving.store.errors import IndexDamagedError, IndexWriteError
from hardrank.serving.store.vector_file import (
    VectorFile,
    create_volume,
    remove_other_volumes,
    vectors_path,
    write_volume,
)


def test_appended_vectors_are_read_back(tmp_path: Path) -> None:
    create_volume(tmp_path, 1)
    file = VectorFile(tmp_path, 1, 5)
    expected = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    views = []
    for start, stop in ((0, 1), (1, 40), (40, 300)):
        file.write(start, expected[start:stop])
        views.append(file.view(stop))
    for view in views:
        assert np.array_equal(view, expected[: len(view)])
        assert not view.flags.writeable
    file.write(250, expected[:50])  # as after a write that was never committed
    assert np.array_equal(VectorFile(tmp_path, 1, 5).view(300)[250:], expected[:50])


def test_a_compacted_volume_has_the_chosen_vectors_and_their_rows(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    slots, rows = np.arange(0, 100, 3), np.arange(7, 7 + 34)
    reports: list[tuple[int, int]] = []
    write_volume(tmp_path, 2, vectors, slots, rows, lambda done, total: reports.append((done, total)))
    file = VectorFile(tmp_path, 2, 3)
    assert np.array_equal(file.view(34), vectors[::3])
    assert np.array_equal(file.base_rows(34), rows)
    assert reports[-1] == (34, 34)
    create_volume(tmp_path, 1)
    remove_other_volumes(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors-0002.f32", "vectors-0002.rows"]


def test_missing_and_short_files_are_named(tmp_path: Path) -> None:
    file = VectorFile(tmp_path, 1, 4)
    with pytest.raises(IndexDamagedError, match=r"vectors\.f32 cannot be read"):
        file.view(1)
    with pytest.raises(IndexWriteError, match=r"vectors\.f32 cannot be written"):
        file.write(0, np.zeros((1, 4), dtype=np.float32))
    vectors_path(tmp_path, 1).write_bytes(b"\0" * 16 * 3)
    with pytest.raises(IndexDamagedError, match="has 3 vectors instead of 4"):
        file.view(4)
    with pytest.raises(IndexDamagedError, match=r"vectors\.rows"):
        file.base_rows(2)
