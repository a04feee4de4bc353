"""The images that visitors uploaded: on disk for minutes, under random names, within a share for each visitor."""

import asyncio
import re
import secrets
from asyncio import TimerHandle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hardrank.serving.search.admission import OverloadedError

_NAME: Final = re.compile(r"[A-Za-z0-9_\-]{22}")
_SHARES: Final = 4
"""One visitor gets this part of the space."""


class UploadQuotaError(OverloadedError):
    """The space for uploads is full."""

    def __init__(self, message: str) -> None:
        # By then some uploads may have been deleted.
        super().__init__(message, retry_after_s=60)


@dataclass(frozen=True, kw_only=True)
class _Upload:
    owner: str
    size: int
    """Bytes that it counts."""
    expiry: TimerHandle


def is_upload_name(text: object) -> bool:
    """Whether a value has the form of an upload's name."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


class UploadStore:
    """Files in a folder, each for a limited time. Used from one event loop.

    A visitor who exceeds their share loses their own oldest uploads. If the space is full, the visitor with the most
    bytes does; a newcomer is refused only if that would leave somebody with less than the newcomer has.
    """

    def __init__(self, folder: Path, *, limit: int, largest: int, keep_s: float, least: int = 2**16) -> None:
        """Store uploads in `folder`.

        Args:
            folder: An existing folder that nothing else uses.
            limit: Limit of all uploads together, bytes.
            largest: Size of the largest upload, bytes. A visitor's share has space for it.
            keep_s: Seconds after which an upload is deleted.
            least: Bytes that a smaller upload counts, so that the number of files is limited too.
        """
        self._folder = folder
        self._limit = limit
        self._share = min(limit, max(limit // _SHARES, largest))
        self._keep_s = keep_s
        self._least = least
        self._uploads: dict[str, _Upload] = {}  # oldest first
        self._sizes: Counter[str] = Counter()

    @property
    def size(self) -> int:
        """Bytes that all uploads count."""
        return self._sizes.total()

    async def add(self, data: bytes, *, owner: str) -> str:
        """Store an upload of the visitor `owner` and return its name; raises `UploadQuotaError`."""
        size = max(len(data), self._least)
        if size > self._share:
            raise UploadQuotaError(f"The upload exceeds a visitor's share of {self._share} bytes; send a smaller one.")
        while self._sizes[owner] + size > self._share:
            self._delete_oldest(owner)
        while self.size + size > self._limit:
            largest, most = self._sizes.most_common(1)[0]
            if largest != owner and most <= self._sizes[owner] + size:
                raise UploadQuotaError("The server's space for uploads is full. Try again in a few minutes.")
            self._delete_oldest(largest)
        name = secrets.token_urlsafe(16)
        expiry = asyncio.get_running_loop().call_later(self._keep_s, self._delete, name)
        self._uploads[name] = _Upload(owner=owner, size=size, expiry=expiry)
        self._sizes[owner] += size
        try:
            await asyncio.to_thread(_write, self._folder / name, data)
        except OSError as error:
            self._delete(name)
            raise UploadQuotaError("The upload cannot be stored. Try again in a few minutes.") from error
        except BaseException:
            self._delete(name)
            raise
        return name

    async def read(self, name: str) -> bytes | None:
        """Return the content of an upload; None if it does not exist any more."""
        if name not in self._uploads:
            return None
        try:
            return await asyncio.to_thread((self._folder / name).read_bytes)
        except FileNotFoundError:  # deleted meanwhile
            return None

    def _delete_oldest(self, owner: str) -> None:
        self._delete(next(name for name, upload in self._uploads.items() if upload.owner == owner))

    def _delete(self, name: str) -> None:
        upload = self._uploads.pop(name, None)
        if upload is not None:
            upload.expiry.cancel()
            self._sizes[upload.owner] -= upload.size
            if not self._sizes[upload.owner]:
                del self._sizes[upload.owner]
            (self._folder / name).unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
