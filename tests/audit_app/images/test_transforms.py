"""Transforms of image files."""

import io

import numpy as np
import pytest
from PIL import Image

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.images.transforms import TransformOptions, transforms
from hardrank.models.decoding import decode
from tests.audit_app.galleries import random_pixels

DATA = encode_png(random_pixels(3, 36, 36))


def test_png_returns_the_file() -> None:
    assert transforms(TransformOptions())["png"].apply(DATA) == DATA


def test_jpeg_equals_pillows_at_that_quality() -> None:
    found = transforms(TransformOptions(jpeg_quality=40))["jpeg"].apply(DATA)
    file = io.BytesIO()
    Image.open(io.BytesIO(DATA)).save(file, format="JPEG", quality=40)
    assert found == file.getvalue()


@pytest.mark.parametrize("percent", [10, 50, 90, 200])
def test_resizing_keeps_the_size_and_changes_the_pixels(percent: int) -> None:
    found = decode(transforms(TransformOptions(resize_percent=percent))["resize"].apply(DATA))
    assert found.size == (36, 36)
    assert not np.array_equal(np.asarray(found), np.asarray(decode(DATA)))


def test_resizing_to_the_same_size_changes_nothing() -> None:
    found = decode(transforms(TransformOptions(resize_percent=100))["resize"].apply(DATA))
    assert np.array_equal(np.asarray(found), np.asarray(decode(DATA)))


@pytest.mark.parametrize("wrong", [{"jpeg_quality": 0}, {"jpeg_quality": 101}, {"resize_percent": 5}])
def test_options_outside_their_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(AuditError, match="give"):
        TransformOptions(**wrong)
