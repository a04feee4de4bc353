"""Originals of items, uploads, and previews of images that browsers do not display."""

from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from hardrank.models.decode_limits import UndecodableImageError
from hardrank.serving.api.auth import address_caller
from hardrank.serving.api.bodies import HeldBytes
from hardrank.serving.api.rate_limit import RateLimit
from hardrank.serving.page.shared_work import SharedWork
from hardrank.serving.page.uploads import UploadStore
from hardrank.serving.search.item_images import media_type_of
from hardrank.serving.search.service import SearchService

_DISPLAYED: Final = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp", "image/avif"}
_SUFFIXES: Final = {
    "image/jpeg": (".jpg", ".jpeg", ".jfif"), "image/png": (".png",), "image/gif": (".gif",), "image/webp": (".webp",),
    "image/bmp": (".bmp",), "image/avif": (".avif",), "image/tiff": (".tif", ".tiff"), "image/heic": (".heic", ".heif"),
    "image/jp2": (".jp2",),
}  # fmt: skip
_PREVIEW_SIDE: Final = 720
"""Pixels."""


class ItemImages:
    """Serves images to the visitors of the page."""

    def __init__(self, service: SearchService, rate: RateLimit, uploads: UploadStore, held: HeldBytes) -> None:
        """Take what finds and decodes images, and what limits requests, uploads, and bytes in memory."""
        self._service = service
        self._rate = rate
        self._uploads = uploads
        self._held = held
        self._reading = SharedWork[tuple[bytes, str] | None]()

    async def response(self, id: str, caller: str, *, download: bool) -> Response:
        """Return the original of an item, or its thumbnail if the original is gone.

        Args:
            id: The item.
            caller: The visitor.
            download: Return a file to save; else an image to look at, which is a preview if browsers do not display
                the format of the original.

        Raises:
            UnknownItemError: There is no such item.
            NoImageError: It has no image.
            RateLimitedError: The visitor exceeded the rate limit, which counts large images more than once.
            OverloadedError: Too much is in memory, or too many images are to be decoded.
        """
        visitor = address_caller(caller)
        self._rate.take(visitor)
        file = await self._service.image(id)
        self._rate.charge(visitor, len(file.data))
        data, media_type = file.data, file.media_type
        headers = {"Cache-Control": "private, no-cache", "Content-Security-Policy": "default-src 'none'; sandbox"}
        if download:
            headers["Content-Disposition"] = (
                f"attachment; filename*=UTF-8''{quote(_file_name(id, media_type), safe='')}"
            )
        elif media_type not in _DISPLAYED:
            # Few are read at a time, but many may wait for a decoder.
            with self._held.holding(len(data), caller):
                data, media_type = await self.displayable(data, caller)
        return Response(data, media_type=media_type, headers=headers)

    async def upload(self, name: str, caller: str) -> tuple[bytes, str] | None:
        """Return an upload and its type, as `displayable`; None if it does not exist any more.

        Raises `RateLimitedError`, `OverloadedError`.
        """
        visitor = address_caller(caller)
        self._rate.take(visitor)
        return await self._reading.run(name, lambda: self._read_upload(name, caller))

    async def _read_upload(self, name: str, caller: str) -> tuple[bytes, str] | None:
        if (png := await self._uploads.preview(name)) is not None:
            return png, "image/png"
        async with self._uploads.reading(name, reader=caller) as data:
            if data is None:
                return None
            shown, media_type = await self.displayable(data, caller)
        if shown is not data:
            await self._uploads.add_preview(name, shown)
        return shown, media_type

    async def displayable(self, data: bytes, caller: str) -> tuple[bytes, str]:
        """Return an image file and its type: as it is, or as a smaller PNG if browsers do not display it."""
        media_type = media_type_of(data)
        if media_type not in _DISPLAYED:
            try:
                return await self._service.preview(data, _PREVIEW_SIDE, caller=address_caller(caller)), "image/png"
            except UndecodableImageError:
                pass  # the search says what is wrong with it
        return data, media_type


def _file_name(id: str, media_type: str) -> str:
    suffixes = _SUFFIXES.get(media_type, ("",))
    return id if id.lower().endswith(suffixes) else id + suffixes[0]
