"""The retrieval of near-duplicates, by which images without classes are measured: what an augmented copy is."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance


def augmented_copy(image: npt.NDArray[np.uint8], *, seed: int) -> npt.NDArray[np.uint8]:
    """Return a copy of an image as people make them: cropped, mirrored, with other colors, and compressed.

    A square of 70 to 100 % of the side is cut out and resized, mirrored with probability ½; brightness, contrast and
    saturation change by up to 30 %; JPEG of quality 40 to 90.

    Args:
        image: uint8 (3,R,R).
        seed: Decides all of this.
    """
    generator = np.random.default_rng(seed)
    side = image.shape[1]
    cut = round(side * generator.uniform(0.7, 1))
    left, top = (int(place) for place in generator.integers(0, side - cut + 1, 2))
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + cut, top + cut))
    if generator.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(generator.uniform(0.7, 1.3))
    with io.BytesIO() as stream:
        picture.save(stream, "JPEG", quality=int(generator.integers(40, 91)))
        with Image.open(stream) as compressed:
            return np.ascontiguousarray(np.asarray(compressed.convert("RGB")).transpose(2, 0, 1))
