"""Images of a split as square pixel arrays: kept in memory if they fit, otherwise decoded on demand."""

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.decoding import decode, read_bytes
from hardrank.models.preprocessing import Preprocessing, center_crop, to_square
from hardrank.trainer.data.dataset import ShowProgress, Split
from hardrank.trainer.data.near_duplicates import augmented_copy

CACHE_BYTES = 4 * 2**30
"""Splits of at most this many bytes as uint8 are kept in memory."""


class ImageStore:
    """`store[rows]` is uint8 (n,3,R,R), R = preprocessing.resize.

    Raises `UndecodableImageError` with the path of a damaged file.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        *,
        cache_bytes: int = CACHE_BYTES,
        progress: ShowProgress | None = None,
    ) -> None:
        self._paths, self._copies = split.paths, split.copies
        self._preprocessing = preprocessing
        resize = preprocessing.resize
        self._pool = ThreadPoolExecutor()
        self._cache: npt.NDArray[np.uint8] | None = None
        if len(split) * 3 * resize**2 <= cache_bytes:
            self._cache = np.empty((len(split), 3, resize, resize), dtype=np.uint8)
            for row, pixels in enumerate(self._pool.map(self._read, range(len(split)), chunksize=16)):
                self._cache[row] = pixels
                if progress is not None:
                    progress(row + 1, len(split))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        if self._cache is not None:
            return self._cache[rows]
        side = self._preprocessing.resize
        images = np.empty((len(rows), 3, side, side), dtype=np.uint8)
        for image, pixels in zip(images, self._pool.map(self._read, rows.tolist()), strict=True):
            image[...] = pixels
        return images

    def center(self, rows: npt.NDArray[np.int64], crop: int) -> npt.NDArray[np.uint8]:
        """Return center crops (n,3,crop,crop), as evaluation and serving use them."""
        return np.ascontiguousarray(center_crop(self[rows], crop))

    def _read(self, row: int) -> npt.NDArray[np.uint8]:
        path = self._paths[row]
        try:
            image = to_square(decode(read_bytes(path)), self._preprocessing)
        except UndecodableImageError as error:
            raise UndecodableImageError(f"{path}: {error}") from error
        if self._copies is None or not self._copies[row]:
            return image
        return augmented_copy(image, seed=zlib.crc32(path.name.encode()))
