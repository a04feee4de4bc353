"""The image store: the same pixels from memory and from disk, crops against a loop."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardrank.models.decoding import UndecodableImageError, decode
from hardrank.models.preprocessing import Preprocessing, centre_crop, to_square
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
    assert store.augmented(rows(), 4, np.random.default_rng(0)).shape == (0, 3, 4, 4)


def test_rows_are_copies(store: ImageStore) -> None:
    before = store[rows(1)].copy()
    store[rows(1)][...] = 0
    store.centre(rows(1), 5)[...] = 0
    assert np.array_equal(store[rows(1)], before)


def test_row_that_is_not_there(store: ImageStore) -> None:
    with pytest.raises(IndexError):
        store[rows(6)]


@pytest.mark.parametrize("crop", [9, 6, 5, 1])
def test_centre(store: ImageStore, crop: int) -> None:
    cropped = store.centre(rows(2, 3), crop)
    assert cropped.flags["C_CONTIGUOUS"]
    assert np.array_equal(cropped, centre_crop(store[rows(2, 3)], crop))


def test_augmented_images_are_windows_of_their_image(store: ImageStore) -> None:
    chosen = rows(*range(6), *range(6), *range(6))
    images = store[chosen]
    crops = store.augmented(chosen, 7, np.random.default_rng(5))
    for crop, image in zip(crops, images, strict=True):
        windows = [image[:, top : top + 7, left : left + 7] for top in range(3) for left in range(3)]
        assert any(np.array_equal(crop, w) or np.array_equal(crop, w[:, :, ::-1]) for w in windows)


def test_every_place_and_both_sides_are_equally_likely(split: Split) -> None:
    store = ImageStore(split, SQUARE)
    draws = 9000
    crops = store.augmented(np.zeros(draws, dtype=np.int64), 7, np.random.default_rng(1))
    image = store[rows(0)][0]
    counts = []
    for top in range(3):
        for left in range(3):
            window = image[:, top : top + 7, left : left + 7]
            counts += [int((crops == side).all(axis=(1, 2, 3)).sum()) for side in (window, window[:, :, ::-1])]
    assert sum(counts) == draws
    # 500 expected for each of 18, standard deviation 22.
    assert max(abs(count - draws / 18) for count in counts) < 5 * 22


def test_augmentation_depends_on_the_generator_alone(split: Split) -> None:
    memory, disk = ImageStore(split, SQUARE), ImageStore(split, SQUARE, cache_bytes=0)
    chosen = rows(3, 1, 2, 2, 0)
    first, again, other = (
        store.augmented(chosen, 5, np.random.default_rng(seed)) for store, seed in ((memory, 1), (disk, 1), (memory, 2))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_whole_square_is_only_mirrored(store: ImageStore) -> None:
    crops, images = store.augmented(rows(0, 1), RESIZE, np.random.default_rng(0)), store[rows(0, 1)]
    for crop, image in zip(crops, images, strict=True):
        assert np.array_equal(crop, image) or np.array_equal(crop, image[:, :, ::-1])


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
