"""Preprocessing, as in serving, reads exactly the attacked pixels from the PNG of an attack."""

import io

import numpy as np
import pytest
from PIL import Image

from hardrank.audit_app.images.exact_png import (
    ExactPngError,
    canvas_around,
    canvas_of,
    encode_png,
    exact_png,
    pixels_hash,
    place_on_canvas,
)
from hardrank.models.decoding import decode
from hardrank.models.preprocessing import Preprocessing, file_pixels, prepare, to_unit
from tests.audit_app.galleries import random_pixels

SIZES = [(36, 32), (37, 32), (33, 32), (32, 32), (72, 64), (256, 224)]


@pytest.mark.parametrize(("resize", "crop"), SIZES)
def test_preprocessing_returns_the_same_pixels(resize: int, crop: int) -> None:
    pre = Preprocessing(resize=resize, crop=crop)
    pixels, canvas = random_pixels(3, crop, crop), random_pixels(3, resize, resize, seed=1)
    prepared = prepare(exact_png(pixels, canvas, pre), pre)
    assert pixels_hash(prepared) == pixels_hash(to_unit(pixels))


@pytest.mark.parametrize(("resize", "crop"), SIZES)
def test_the_border_is_that_of_the_benign_image(resize: int, crop: int) -> None:
    pre = Preprocessing(resize=resize, crop=crop)
    file = encode_png(random_pixels(3, 50, 70))
    canvas = canvas_of(file, pre)
    assert np.array_equal(place_on_canvas(file_pixels(file, pre), canvas, pre), canvas)
    saved = np.asarray(decode(exact_png(random_pixels(3, crop, crop, seed=2), canvas, pre))).transpose(2, 0, 1)
    border = np.ones((resize, resize), dtype=bool)
    start = (resize - crop) // 2
    border[start : start + crop, start : start + crop] = False
    assert np.array_equal(saved[:, border], canvas[:, border])


def test_a_png_of_the_crop_alone_would_change_the_pixels() -> None:
    pre = Preprocessing(resize=36, crop=32)
    pixels = random_pixels(3, 32, 32)
    assert not np.array_equal(file_pixels(encode_png(pixels), pre), pixels)


def test_without_the_original_the_edge_is_repeated() -> None:
    pre = Preprocessing(resize=5, crop=2)
    pixels = np.array([[[1, 2], [3, 4]]] * 3, dtype=np.uint8)
    canvas = canvas_around(pixels, pre)
    assert canvas[0].tolist() == [[1, 1, 2, 2, 2], [1, 1, 2, 2, 2], [3, 3, 4, 4, 4], [3, 3, 4, 4, 4], [3, 3, 4, 4, 4]]
    assert np.array_equal(place_on_canvas(pixels, canvas, pre), canvas)


def test_a_png_is_rgb_without_metadata() -> None:
    image = Image.open(io.BytesIO(encode_png(random_pixels(3, 4, 6))))
    assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", (6, 4), {})


def test_pixels_that_do_not_fit_are_refused() -> None:
    pre = Preprocessing(resize=36, crop=32)
    with pytest.raises(ExactPngError, match="do not fit"):
        place_on_canvas(random_pixels(3, 31, 31), random_pixels(3, 36, 36), pre)
