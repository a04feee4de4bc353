"""Gradio's scripts, styles and fonts, each compressed once and in a thread.

Gradio compresses them for every request, on the event loop: a quarter of a second for the largest.
"""

import asyncio
import gzip
import mimetypes
from pathlib import Path
from typing import Final

import gradio as gr
from starlette.responses import Response

_FRONTEND: Final = Path(gr.__file__).parent / "templates" / "frontend"
_FOLDERS: Final = ("assets", "static")
_LARGEST: Final = 2**23
"""Bytes. Larger ones, such as a video encoder, the page does not need."""
_COMPRESSIBLE: Final = frozenset({".css", ".js", ".json", ".svg", ".ttf"})
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""The system may map these to types that browsers refuse."""
_HEADERS: Final = {"Cache-Control": "public, max-age=86400", "Vary": "Accept-Encoding"}


class Assets:
    """The files, by address. Used from one event loop."""

    def __init__(self) -> None:
        """List the files, and nothing else can be read."""
        found = (path for folder in _FOLDERS for path in (_FRONTEND / folder).rglob("*") if path.is_file())
        files = (path for path in found if path.stat().st_size <= _LARGEST)
        self._files = {f"/{path.relative_to(_FRONTEND).as_posix()}": path for path in files}
        self._compressed: dict[str, bytes] = {}
        """In all some megabytes, as many as the files have."""
        self._compressing = asyncio.Lock()

    def __contains__(self, address: str) -> bool:
        """Whether there is such a file."""
        return address in self._files

    async def response(self, address: str, accepted: str) -> Response:
        """Return the response to a request for a file; `accepted` is the header Accept-Encoding."""
        path = self._files[address]
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if path.suffix in _COMPRESSIBLE and "gzip" in {encoding.strip() for encoding in accepted.split(",")}:
            headers = {**_HEADERS, "Content-Encoding": "gzip"}
            return Response(await self._gzip(address, path), media_type=kind, headers=headers)
        return Response(await asyncio.to_thread(path.read_bytes), media_type=kind, headers=_HEADERS)

    async def _gzip(self, address: str, path: Path) -> bytes:
        if address not in self._compressed:
            async with self._compressing:  # one thread at most
                if address not in self._compressed:
                    self._compressed[address] = await asyncio.to_thread(_gzipped, path)
        return self._compressed[address]


def _gzipped(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), 6, mtime=0)
