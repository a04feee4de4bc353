"""The image store: the same pixels from memory and from disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.decoding import decode
from hardrank.models.preprocessing import Preprocessing, center_crop, to_square
from hardrank.trainer.data.dataset import Split
from hardrank.trainer.data.store import ImageStore
from tests.trainer.data.images import write_image

MakeStore = Callable[..., ImageStore]
RESIZE = 9
SQUARE = Preprocessing(resize=RESIZE, crop=RESIZE)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    paths = tuple(write_image(tmp_path / f"{number}.png", number, side=8 + number) for number in range(6))
    return Split(paths, np.array([0, 0, 1, 1, 2, 2]), ("a", "b", "c"))


@pytest.fixture(params=[10**9, 0], ids=["memory", "disk"])
def store(request: pytest.FixtureRequest, split: Split) -> ImageStore:
    return ImageStore(split, SQUARE, cache_bytes=request.param)


def rows(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64)


def test_pixels_are_those_of_preprocessing(store: ImageStore, split: Split) -> None:
    chosen = rows(4, 0, 4, 5)
    expected = np.stack([to_square(decode(split.paths[row].read_bytes()), SQUARE) for row in chosen])
    assert store[chosen].dtype == np.uint8
    assert np.array_equal(store[chosen], expected)
    assert len(store) == 6


def test_no_rows(store: ImageStore) -> None:
    assert store[rows()].shape == (0, 3, RESIZE, RESIZE)
    assert store.center(rows(), 4).shape == (0, 3, 4, 4)


def test_rows_are_copies(store: ImageStore) -> None:
    before = store[rows(1)].copy()
    store[rows(1)][...] = 0
    store.center(rows(1), 5)[...] = 0
    assert np.array_equal(store[rows(1)], before)


def test_row_that_is_not_there(store: ImageStore) -> None:
    with pytest.raises(IndexError):
        store[rows(6)]


@pytest.mark.parametrize("crop", [9, 6, 5, 1])
def test_center(store: ImageStore, crop: int) -> None:
    cropped = store.center(rows(2, 3), crop)
    assert cropped.flags["C_CONTIGUOUS"]
    assert np.array_equal(cropped, center_crop(store[rows(2, 3)], crop))


def test_pixels_from_memory_and_from_disk_are_the_same(split: Split) -> None:
    memory, disk = ImageStore(split, SQUARE), ImageStore(split, SQUARE, cache_bytes=0)
    chosen = rows(3, 1, 2, 2, 0)
    assert np.array_equal(memory[chosen], disk[chosen])


def test_memory_is_used_up_to_the_limit(split: Split) -> None:
    needed = 6 * 3 * RESIZE**2
    for path, limit in zip(split.paths[:2], (needed, needed - 1), strict=True):
        store = ImageStore(split, SQUARE, cache_bytes=limit)
        path.unlink()
        if limit == needed:
            assert store[rows(0)].shape == (1, 3, RESIZE, RESIZE)
            write_image(path)
        else:
            with pytest.raises(UndecodableImageError, match="cannot be read"):
                store[rows(1)]


@pytest.mark.parametrize("cache_bytes", [10**9, 0])
def test_damaged_file_is_named(split: Split, cache_bytes: int) -> None:
    split.paths[2].write_bytes(b"no image")
    with pytest.raises(UndecodableImageError, match=r"2\.png: .*not an image of a supported format"):
        ImageStore(split, SQUARE, cache_bytes=cache_bytes)[rows(2)]


def test_progress(split: Split) -> None:
    seen: list[tuple[int, int]] = []
    ImageStore(split, SQUARE, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
