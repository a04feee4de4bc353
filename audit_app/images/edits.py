"""Edits that people make to images: saved as JPEG, resized, cropped, blurred, rotated, captured, watermarked."""

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

_RESAMPLING: Final = Image.Resampling.BICUBIC
_SCREEN_PERCENT: Final = 75
"""Size at which a screenshot shows an image, in % of its own."""
_SCREEN_QUALITY: Final = 80
_SCREEN_COLOR: Final = (240, 240, 240)
_MARK: Final = "SAMPLE"
_MARK_SHARE: Final = 8
"""The letters of a watermark are one in this many of the shorter side high."""
_MARK_ANGLE: Final = 30


@dataclass(frozen=True)
class Edit:
    """An edit with a strength. It depends on nothing but the image, so the same file gives the same pixels."""

    title: str
    unit: str
    """What the strength counts."""
    strengths: tuple[float, ...]
    """Those that are measured, from the mildest."""
    apply: Callable[[Image.Image, float], Image.Image]
    """RGB image, strength → edited RGB image."""


def save_as_jpeg(image: Image.Image, quality: float) -> Image.Image:
    """Save with a JPEG quality from 1 to 100, as in Pillow, and read it again."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=round(quality))
    return Image.open(file).convert("RGB")


def resize(image: Image.Image, percent: float) -> Image.Image:
    """Resize to `percent` of each side. Nothing enlarges it again but the preprocessing of the model."""
    return image.resize((_share(image.width, percent), _share(image.height, percent)), _RESAMPLING)


def crop(image: Image.Image, percent: float) -> Image.Image:
    """Keep the middle `percent` of each side."""
    width, height = _share(image.width, percent), _share(image.height, percent)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def blur(image: Image.Image, percent: float) -> Image.Image:
    """Blur with a Gaussian whose standard deviation is `percent` of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) * percent / 100))


def brighten(image: Image.Image, percent: float) -> Image.Image:
    """Multiply all values by 1 + `percent` / 100; negative percentages darken."""
    return ImageEnhance.Brightness(image).enhance(1 + percent / 100)


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Rotate counterclockwise within the same frame; the corners turn black."""
    return image.rotate(degrees, _RESAMPLING)


def capture(image: Image.Image, percent: float) -> Image.Image:
    """Take a screenshot: smaller on the screen, with a border of `percent` of each side, and saved as JPEG."""
    shown = resize(image, _SCREEN_PERCENT)
    left, top = round(shown.width * percent / 100), round(shown.height * percent / 100)
    screen = Image.new("RGB", (shown.width + 2 * left, shown.height + 2 * top), _SCREEN_COLOR)
    screen.paste(shown, (left, top))
    return save_as_jpeg(screen, _SCREEN_QUALITY)


def watermark(image: Image.Image, percent: float) -> Image.Image:
    """Write a word across the whole image, slanted and repeated, in white of `percent` opacity."""
    side = math.ceil(math.hypot(*image.size))
    height = max(6, min(image.size) // _MARK_SHARE)
    font = ImageFont.load_default(size=height)
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    step = round(pen.textlength(_MARK + "  ", font=font))
    for line, y in enumerate(range(0, side, 2 * height)):
        for x in range(-(line % 2) * step // 2, side, step):
            pen.text((x, y), _MARK, fill=round(255 * percent / 100), font=font)
    mask = mask.rotate(_MARK_ANGLE, _RESAMPLING)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    marked = image.copy()
    marked.paste((255, 255, 255), mask=mask.crop((left, top, left + image.width, top + image.height)))
    return marked


EDITS: Final[Mapping[str, Edit]] = {
    "jpeg": Edit("saved as JPEG", "quality", (95, 90, 75, 50, 30, 20, 10), save_as_jpeg),
    "resize": Edit("resized", "% of each side", (90, 75, 50, 33, 25), resize),
    "crop": Edit("cropped to the middle", "% of each side kept", (98, 95, 90, 80, 70, 60, 50), crop),
    "blur": Edit("blurred", "% of the shorter side, standard deviation", (0.25, 0.5, 1, 2, 4), blur),
    "brighter": Edit("brightened", "%", (10, 20, 40, 60, 100), brighten),
    "darker": Edit("darkened", "%", (-10, -20, -40, -60, -80), brighten),
    "rotate": Edit("rotated", "degrees", (1, 2, 5, 10, 20, 45), rotate),
    "screenshot": Edit("captured from a screen", "% of each side, border", (0, 2, 5, 10, 20), capture),
    "watermark": Edit("watermarked with text", "% opacity", (10, 20, 40, 60, 80, 100), watermark),
}
"""The edits by key."""

EDIT_COUNT: Final = sum(len(edit.strengths) for edit in EDITS.values())
"""Number of edited images for each original."""


def _share(side: int, percent: float) -> int:
    return max(1, round(side * percent / 100))
