"""Random views of training images, against their definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hardrank.trainer.data.augmentation import AugmentationError, AugmentationOptions, augment


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))


def views(image: Tensor, options: AugmentationOptions, *, side: int, count: int = 200) -> list[Tensor]:
    generator = np.random.default_rng(0)
    return [augment(image, side, options, generator) for _ in range(count)]


def test_without_options_views_are_all_crops_and_their_mirror_images(image: Tensor) -> None:
    expected = {
        view.numpy().tobytes()
        for top in range(3)
        for left in range(3)
        for crop in [image[:, top : top + 10, left : left + 10]]
        for view in (crop.contiguous(), crop.flip(2).contiguous())
    }
    found = {view.contiguous().numpy().tobytes() for view in views(image, AugmentationOptions(), side=10)}
    assert found == expected


@pytest.mark.parametrize("side", [6, 12, 20])
def test_resized_views_have_the_side_and_the_range_of_the_image(image: Tensor, side: int) -> None:
    for view in views(image, AugmentationOptions(min_area=0.3, color=0.9), side=side, count=50):
        assert view.shape == (3, side, side)
        assert view.dtype == torch.float32
        assert view.min() >= 0
        assert view.max() <= 1


def test_a_crop_shows_at_least_the_smallest_area() -> None:
    side = 200
    columns = torch.linspace(0, 1, side).expand(side, side)
    image = torch.stack([columns, columns.T, torch.zeros(side, side)])
    shares = []
    for view in views(image, AugmentationOptions(min_area=0.4), side=50, count=300):
        width, height = (view[channel].max() - view[channel].min() for channel in (0, 1))
        shares.append(float(width * height))
    assert 0.36 < min(shares) < 0.45
    assert max(shares) > 0.8


def test_colors_change_as_defined(image: Tensor) -> None:
    options, side = AugmentationOptions(color=0.5), 12
    generator = np.random.default_rng(3)
    view = augment(image, side, options, generator)
    again = np.random.default_rng(3)
    again.integers(0, 1, 2)
    plain = image.flip(2) if again.random() < 0.5 else image
    brightness, contrast, saturation = again.uniform(0.5, 1.5, 3)

    def gray(pixels: Tensor) -> Tensor:
        return 0.2989 * pixels[:1] + 0.587 * pixels[1:2] + 0.114 * pixels[2:]

    plain = (brightness * plain).clamp(0, 1)
    mean = gray(plain).mean()
    plain = (mean + contrast * (plain - mean)).clamp(0, 1)
    plain = (gray(plain) + saturation * (plain - gray(plain))).clamp(0, 1)
    assert torch.allclose(view, plain, atol=1e-3)


def test_the_generator_determines_a_view(image: Tensor) -> None:
    options = AugmentationOptions(min_area=0.3, color=0.3)
    one, same, other = (augment(image, 8, options, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("options", [{"min_area": 1.5}, {"min_area": -0.1}, {"color": 2}, {"resize": 40}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(AugmentationError, match=f"augmentation.{next(iter(options))}"):
        AugmentationOptions(**options)
