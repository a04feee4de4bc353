"""The images that visitors uploaded: on disk for minutes, under random names, within a share for each visitor."""

import asyncio
import re
import secrets
from asyncio import TimerHandle
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hardrank.serving.api.bodies import HeldBytes
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
    length: int
    size: int
    """Bytes that it counts, with its preview."""
    expiry: TimerHandle
    preview: bool = False
    """Whether a preview is stored."""


def is_upload_name(text: object) -> bool:
    """Whether a value has the form of an upload's name."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


class UploadStore:
    """Files in a folder, each for a limited time. Used from one event loop.

    A visitor who exceeds their share loses their own oldest uploads. If the space is full, the visitor with the most
    bytes does; a newcomer is refused only if that would leave somebody with less than the newcomer has.
    """

    def __init__(
        self, folder: Path, *, limit: int, largest: int, keep_s: float, held: HeldBytes, least: int = 2**16
    ) -> None:
        """Store uploads in `folder`.

        Args:
            folder: An existing folder that nothing else uses.
            limit: Limit of all uploads together, bytes.
            largest: Size of the largest upload, bytes. A visitor's share has space for it.
            keep_s: Seconds after which an upload is deleted.
            held: Limits the bytes of uploads in memory.
            least: Bytes that a smaller upload counts, so that the number of files is limited too.
        """
        self._folder = folder
        self._limit = limit
        self._share = min(limit, max(limit // _SHARES, largest))
        self._keep_s = keep_s
        self._held = held
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
        self._uploads[name] = _Upload(owner=owner, length=len(data), size=size, expiry=expiry)
        self._sizes[owner] += size
        path = self._folder / name
        try:
            await asyncio.to_thread(_write, path, data)
        except OSError as error:
            self._delete(name)
            raise UploadQuotaError("The upload cannot be stored. Try again in a few minutes.") from error
        except BaseException:
            self._delete(name)
            raise
        if name not in self._uploads:  # deleted for others before the file was there
            path.unlink(missing_ok=True)
        return name

    @asynccontextmanager
    async def reading(self, name: str, *, reader: str) -> AsyncIterator[bytes | None]:
        """Read an upload and count it as held by the address `reader` during the block; None if it is gone.

        Raises `OverloadedError` before reading if too much is held.
        """
        upload = self._uploads.get(name)
        with self._held.holding(upload.length if upload else 0, reader):
            yield await _read(self._folder / name) if upload else None

    async def preview(self, name: str) -> bytes | None:
        """Return the stored preview of an upload; None if there is none."""
        upload = self._uploads.get(name)
        return await _read(self._preview_path(name)) if upload and upload.preview else None

    async def add_preview(self, name: str, data: bytes) -> None:
        """Store a preview of an upload, which lasts as long, unless the visitor's share or the space is full."""
        if name not in self._uploads or self._uploads[name].preview:
            return
        path = self._preview_path(name)
        with suppress(OSError):  # such as a full disk: then it is made again when it is wanted
            await asyncio.to_thread(path.write_bytes, data)
            upload = self._uploads.get(name)  # None: deleted meanwhile
            if upload is not None and self._has_space(upload.owner, len(data)):
                self._uploads[name] = replace(upload, size=upload.size + len(data), preview=True)
                self._sizes[upload.owner] += len(data)
                return
        path.unlink(missing_ok=True)

    def _has_space(self, owner: str, size: int) -> bool:
        return self._sizes[owner] + size <= self._share and self.size + size <= self._limit

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
            self._preview_path(name).unlink(missing_ok=True)

    def _preview_path(self, name: str) -> Path:
        return self._folder / f"{name}.preview"


async def _read(path: Path) -> bytes | None:
    try:
        return await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:  # deleted meanwhile
        return None


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
