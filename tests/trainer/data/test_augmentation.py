"""Random views of training images, against their definitions."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from hardrank.models.preprocessing import to_unit
from hardrank.trainer.data.augmentation import AugmentationError, AugmentationOptions, augment

CROPS = AugmentationOptions()


@pytest.fixture
def image() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 9, 9), dtype=np.uint8)


def views(
    image: npt.NDArray[np.uint8], options: AugmentationOptions, *, side: int, count: int = 200, seed: int = 0
) -> Tensor:
    """Views (count,3,side,side) of one image."""
    return augment(np.repeat(image[None], count, 0), side, options, np.random.default_rng(seed))


def test_crops_and_mirror_images_are_those_of_a_loop_bit_for_bit(image: npt.NDArray[np.uint8]) -> None:
    images = np.stack([image, image[::-1], 255 - image])
    found = augment(images, 6, CROPS, np.random.default_rng(4))
    generator = np.random.default_rng(4)
    tops, lefts = generator.integers(0, 4, (2, 3))
    for number, mirrored in enumerate(generator.random(3) < 0.5):
        crop = images[number][:, tops[number] : tops[number] + 6, lefts[number] : lefts[number] + 6]
        expected = to_unit(crop[:, :, ::-1] if mirrored else crop)
        assert found[number].numpy().tobytes() == expected.tobytes()
    assert augment(images[:0], 6, CROPS, generator).shape == (0, 3, 6, 6)


def test_every_crop_and_its_mirror_image_are_equally_likely(image: npt.NDArray[np.uint8]) -> None:
    draws = 9000
    found = views(image, CROPS, side=7, count=draws, seed=1).numpy()
    counts = []
    for top in range(3):
        for left in range(3):
            crop = to_unit(image[:, top : top + 7, left : left + 7])
            counts += [int((found == view).all(axis=(1, 2, 3)).sum()) for view in (crop, crop[:, :, ::-1])]
    assert sum(counts) == draws
    # 500 expected for each of 18, standard deviation 22.
    assert max(abs(count - draws / 18) for count in counts) < 5 * 22


def test_a_crop_of_the_whole_square_is_only_mirrored(image: npt.NDArray[np.uint8]) -> None:
    found = {view.numpy().tobytes() for view in views(image, CROPS, side=9)}
    assert found == {to_unit(image).tobytes(), to_unit(image[:, :, ::-1]).tobytes()}


@pytest.mark.parametrize("side", [6, 9, 20])
def test_resized_views_have_the_side_and_the_range_of_the_image(image: npt.NDArray[np.uint8], side: int) -> None:
    found = views(image, AugmentationOptions(min_area=0.3, color=0.9), side=side, count=50)
    assert found.shape == (50, 3, side, side)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_crop_shows_at_least_the_smallest_area() -> None:
    side = 200
    columns = np.broadcast_to(np.linspace(0, 255, side).round().astype(np.uint8), (side, side))
    image = np.stack([columns, columns.T, np.zeros_like(columns)])
    found = views(image, AugmentationOptions(min_area=0.4), side=50, count=300)
    width, height = (found[:, channel].amax((1, 2)) - found[:, channel].amin((1, 2)) for channel in (0, 1))
    shares = width * height
    assert 0.36 < shares.min() < 0.45
    assert shares.max() > 0.8


def test_colors_change_as_defined(image: npt.NDArray[np.uint8]) -> None:
    """The crops are those of the same generator without colors."""
    images = np.stack([image, image[::-1]])
    found = augment(images, 6, AugmentationOptions(color=0.5), np.random.default_rng(3))
    again = np.random.default_rng(3)
    for view, crop in zip(found, augment(images, 6, CROPS, again), strict=True):
        brightness, contrast, saturation = again.uniform(0.5, 1.5, 3)
        expected = (brightness * crop).clamp(0, 1)
        mean = gray(expected).mean()
        expected = (mean + contrast * (expected - mean)).clamp(0, 1)
        expected = (gray(expected) + saturation * (expected - gray(expected))).clamp(0, 1)
        assert torch.allclose(view, expected, atol=1e-3)


def gray(pixels: Tensor) -> Tensor:
    return 0.2989 * pixels[:1] + 0.587 * pixels[1:2] + 0.114 * pixels[2:]


@pytest.mark.parametrize("options", [CROPS, AugmentationOptions(min_area=0.3, color=0.3)])
def test_the_generator_determines_a_view(image: npt.NDArray[np.uint8], options: AugmentationOptions) -> None:
    one, same, other = (views(image, options, side=5, count=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("options", [{"min_area": 1.5}, {"min_area": -0.1}, {"color": 2}, {"resize": 40}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(AugmentationError, match=f"augmentation.{next(iter(options))}"):
        AugmentationOptions(**options)
