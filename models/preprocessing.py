"""From the bytes of an image file to pixels: the only implementation, for training, evaluation and serving.

bytes → `decode` (RGB image, see `hardrank.models.decoding`) → `to_square` (uint8 (3,R,R)) → `center_crop`
(uint8 (3,C,C)) → `to_unit` (float32 in [0,1]). The network itself subtracts the mean and divides by the standard
deviation of its channels.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final, Self, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from hardrank.models.decode_limits import DEFAULT_LIMITS, DecodeLimits, is_positive_integer
from hardrank.models.decoding import decode, to_rgb
from hardrank.models.errors import HardrankError

MAX_RESIZE = 4096
"""Pixels. Cards may come from strangers: a larger square is a mistake or an attempt to exhaust memory."""

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Mean of the channels of most networks that were trained on ImageNet, for pixels in [0,1]."""
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Standard deviation of the same."""

MAX_ASPECT_RATIO = 4
"""With `Fit.SHORTEST`, the ends of a longer image are cut off before resizing, which bounds the memory."""

Scalar = TypeVar("Scalar", bound=np.generic)


class PreprocessingError(HardrankError):
    """The sizes of the preprocessing contradict each other."""


class Fit(StrEnum):
    """How an image becomes a square."""

    SQUARE = "square"
    """Resize both sides to the square; the aspect ratio is not kept."""
    SHORTEST = "shortest"
    """Resize the shorter side and cut the square from the center, as timm and torchvision do."""


class Interpolation(StrEnum):
    """Filter of the resizing, always antialiased."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


_FILTERS: Mapping[Interpolation, Image.Resampling] = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """As stored in a model's card. Raises `PreprocessingError` unless 1 ≤ crop ≤ resize ≤ 4096."""

    resize: int
    """Pixels. Side of the square that every image becomes."""
    crop: int
    """Pixels. Side of the square cut from it (at random in training), the same as architecture.image_size."""
    fit: Fit = Fit.SQUARE
    """`square`: resize both sides; `shortest`: resize the shorter side and cut the square from the center."""
    interpolation: Interpolation = Interpolation.BILINEAR
    """`bilinear` or `bicubic`, antialiased."""

    def __post_init__(self) -> None:
        for name, choices in (("fit", Fit), ("interpolation", Interpolation)):
            try:
                object.__setattr__(self, name, choices(getattr(self, name)))
            except ValueError as error:
                raise PreprocessingError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(choices)}."
                ) from error
        for name, value in (("resize", self.resize), ("crop", self.crop)):
            if not is_positive_integer(value):
                raise PreprocessingError(f"{name} is {value!r}; give a positive whole number of pixels.")
        if self.crop > self.resize:
            raise PreprocessingError(
                f"crop ({self.crop}) is larger than resize ({self.resize}); make crop at most resize."
            )
        if self.resize > MAX_RESIZE:
            raise PreprocessingError(f"resize is {self.resize}; give at most {MAX_RESIZE} pixels.")

    def to_dict(self) -> dict[str, int | str]:
        """Return the fields as numbers and strings, ready for JSON; `from_dict` reads them back."""
        return {name: str(value) if isinstance(value, str) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from the output of `to_dict`. Raises `PreprocessingError` naming unknown, missing or wrong fields."""
        known = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        if not required <= set(values) <= known:
            raise PreprocessingError(
                f"Preprocessing has the fields {sorted(map(str, values))}; it needs exactly {sorted(required)}, and "
                f"optionally {sorted(known - required)}."
            )
        return cls(**values)


def to_square(image: Image.Image, pre: Preprocessing) -> npt.NDArray[np.uint8]:
    """Resize an image to uint8 (3,R,R) with R = `pre.resize` pixels, in the way of `pre.fit`."""
    return _channels_first(_square(image, pre))


def _square(image: Image.Image, pre: Preprocessing) -> Image.Image:
    image, side, resampling = to_rgb(image), pre.resize, _FILTERS[pre.interpolation]
    if pre.fit is Fit.SQUARE:
        return image.resize((side, side), resampling)
    return _middle(_resize_shortest(image, side, resampling), side, side)


def _channels_first(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def _resize_shortest(image: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    """Resize the shorter side to `side`; the longer one is rounded down, as in torchvision."""
    longest = MAX_ASPECT_RATIO * min(image.size)
    image = _middle(image, min(image.width, longest), min(image.height, longest))
    width, height = image.size
    shorter = min(width, height)
    return image.resize((side * width // shorter, side * height // shorter), resampling)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def center_crop(array: npt.NDArray[Scalar], crop: int) -> npt.NDArray[Scalar]:
    """Return the center (…,C,C) of an array (…,R,R), C = `crop` ≤ R, as a view.

    An odd margin is one pixel larger at the right and the bottom.
    """
    side = array.shape[-1]
    if array.shape[-2] != side or not 1 <= crop <= side:
        raise PreprocessingError(f"Cannot crop {crop}×{crop} pixels from an array of shape {array.shape}.")
    start = (side - crop) // 2
    return array[..., start : start + crop, start : start + crop]


def to_unit(array: npt.NDArray[np.uint8], *, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """Return pixels 0 … 255 as float32 in [0,1], of the same shape: value / 255; written to `out` if it is given."""
    return np.divide(array, np.float32(255), out=out, dtype=np.float32)


def prepare(data: bytes, pre: Preprocessing, *, limits: DecodeLimits = DEFAULT_LIMITS) -> npt.NDArray[np.float32]:
    """Convert an image file to the network's input.

    Args:
        data: The bytes of the file.
        pre: The model's preprocessing.
        limits: Limits on the file and the image.

    Returns:
        float32 (3,C,C) in [0,1], C = `pre.crop`.

    Raises:
        ImageTooLargeError: The image exceeds the limits.
        UndecodableImageError: The bytes are not an intact image.
    """
    return to_unit(file_pixels(data, pre, limits=limits))


def file_pixels(data: bytes, pre: Preprocessing, *, limits: DecodeLimits = DEFAULT_LIMITS) -> npt.NDArray[np.uint8]:
    """Return the network's input as bytes, uint8 (3,C,C): `prepare` before the division by 255; raises the same."""
    return image_pixels(decode(data, limits=limits), pre)


def image_pixels(image: Image.Image, pre: Preprocessing) -> npt.NDArray[np.uint8]:
    """Resize and center-crop a decoded image: uint8 (3,C,C), C = `pre.crop`."""
    return _channels_first(_middle(_square(image, pre), pre.crop, pre.crop))
