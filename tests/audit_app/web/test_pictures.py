"""Thumbnails are made once, and galleries are hashed once."""

import base64
import gc
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from hardrank.audit_app.gallery.embedded import CropStore
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.images.exact_png import Uint8Image
from hardrank.audit_app.web.pictures import ThumbnailCache
from tests.audit_app.galleries import random_pixels


class Owner:
    """Stands for a gallery."""


class Loads:
    """Counts how often pixels are loaded."""

    def __init__(self, pixels: Uint8Image) -> None:
        self.pixels = pixels
        self.count = 0

    def __call__(self) -> Uint8Image:
        self.count += 1
        return self.pixels


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def test_a_thumbnail_is_loaded_once_for_each_owner_key_and_size() -> None:
    cache, load, owner, other = ThumbnailCache(), Loads(random_pixels(3, 40, 40)), Owner(), Owner()
    assert cache.uri(owner, 1, load) == cache.uri(owner, 1, load)
    assert load.count == 1
    cache.uri(owner, 2, load)
    cache.uri(other, 1, load)
    assert load.count == 3
    assert decoded(cache.uri(owner, 1, load, side=20)).shape == (3, 20, 20)
    assert load.count == 4


def test_small_images_keep_their_exact_pixels() -> None:
    load = Loads(random_pixels(3, 96, 96))
    assert (decoded(ThumbnailCache().uri(Owner(), 0, load)) == load.pixels).all()


def test_the_thumbnails_used_last_are_kept() -> None:
    cache, load, owner = ThumbnailCache(most=2), Loads(random_pixels(3, 8, 8)), Owner()
    for key in (0, 1, 0, 2):
        cache.uri(owner, key, load)
    assert load.count == 3
    cache.uri(owner, 0, load)
    assert load.count == 3
    cache.uri(owner, 1, load)
    assert load.count == 4


def test_thumbnails_are_dropped_with_their_owner() -> None:
    cache, load, owner = ThumbnailCache(), Loads(random_pixels(3, 8, 8)), Owner()
    cache.uri(owner, 0, load)
    assert len(cache) == 1
    del owner
    gc.collect()
    assert len(cache) == 0


def test_redraws_decode_no_file_again(served: list[ServedGallery]) -> None:
    reads: list[int] = []
    whole = served[0].gallery

    def read(row: int) -> bytes:
        reads.append(row)
        return whole.read(row)

    gallery = replace(whole, read=read)
    store = CropStore(gallery, served[0].subject.preprocessing, None)  # a gallery that does not fit in memory
    large = replace(served[0], embedded=replace(served[0].embedded, gallery=gallery, store=store))
    cache = ThumbnailCache()
    for _ in range(3):
        for row in (4, 7):
            cache.uri(large, row, lambda row=row: large.picture(row))  # type: ignore[misc]
    assert reads == [4, 7]


class CountedIds(tuple[str, ...]):
    """Ids that count how often they are all read."""

    passes = 0

    def __iter__(self) -> Iterator[str]:
        type(self).passes += 1
        return super().__iter__()


def test_a_gallery_is_hashed_once(gratings: Path) -> None:
    gallery = from_images(gratings)
    counted = replace(gallery, ids=CountedIds(gallery.ids))
    before = CountedIds.passes
    assert counted.digest() == counted.digest() == gallery.digest()
    assert CountedIds.passes == before + 1
