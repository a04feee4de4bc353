"""Edits of images: what each does, and that the strengths are in order."""

import numpy as np
import pytest
from PIL import Image

from hardrank.audit_app.images.edits import EDITS, blur, brighten, capture, crop, resize, rotate, watermark
from hardrank.models.preprocessing import Preprocessing, image_pixels

PRE = Preprocessing(resize=64, crop=64)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Smooth colors with some texture, 96 × 64 px."""
    y, x = np.mgrid[0:64, 0:96] / 96
    waves = [0.4 + 0.3 * np.sin(9 * x + 5 * y), 0.4 + 0.3 * np.cos(7 * y), 0.4 + 0.2 * np.sin(60 * x)]
    return Image.fromarray((255 * np.stack(waves, axis=2)).astype(np.uint8))


@pytest.mark.parametrize("name", EDITS)
def test_a_stronger_edit_changes_the_networks_input_more(name: str, image: Image.Image) -> None:
    edit = EDITS[name]
    before = image_pixels(image, PRE).astype(float)
    found = [edit.apply(image, strength) for strength in edit.strengths]
    assert all(one.mode == "RGB" for one in found)
    changes = [np.abs(image_pixels(one, PRE) - before).mean() for one in found]
    assert changes == sorted(changes)
    assert changes[-1] > max(1.0, 1.5 * changes[0])


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_leaves_the_original_alone_and_is_deterministic(name: str, image: Image.Image) -> None:
    edit, original = EDITS[name], image.copy()
    one, other = (edit.apply(image, edit.strengths[-1]) for _ in range(2))
    assert np.array_equal(np.asarray(one), np.asarray(other))
    assert np.array_equal(np.asarray(image), np.asarray(original))


def test_sizes_follow_from_the_strength(image: Image.Image) -> None:
    assert resize(image, 50).size == (48, 32)
    assert crop(image, 50).size == (48, 32)
    assert np.array_equal(np.asarray(crop(image, 50)), np.asarray(image)[16:48, 24:72])
    assert rotate(image, 10).size == blur(image, 2).size == watermark(image, 50).size == (96, 64)
    assert capture(image, 0).size == (72, 48)
    assert capture(image, 10).size == (72 + 14, 48 + 10)


def test_brightness_multiplies_values(image: Image.Image) -> None:
    before = np.asarray(image).astype(float)
    for percent in (20, -40):
        after = np.asarray(brighten(image, percent)).astype(float)
        np.testing.assert_allclose(after, (before * (1 + percent / 100)).clip(0, 255), atol=1)


def test_an_opaque_watermark_covers_some_pixels_with_white(image: Image.Image) -> None:
    white = (np.asarray(watermark(image.resize((480, 320)), 100)) == 255).all(axis=2).mean()
    assert 0.02 < white < 0.5
