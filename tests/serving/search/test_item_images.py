"""The media type of an original follows from its first bytes."""

import pytest
from PIL import Image, features

from hardrank.serving.search.item_images import media_type_of
from tests.serving.served import encoded


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("JPEG", "image/jpeg"), ("PNG", "image/png"), ("GIF", "image/gif"), ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"), ("WEBP", "image/webp"), ("AVIF", "image/avif"),
        ("HEIF", "image/heic"), ("JPEG2000", "image/jp2"),
    ],
)  # fmt: skip
def test_media_types(kind: str, media_type: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    assert media_type_of(encoded(Image.new("RGB", (64, 64)), kind)) == media_type


def test_unknown_bytes() -> None:
    assert media_type_of(b"something else") == "application/octet-stream"
