"""The search page: an image in, the most similar ones out, from one model or two side by side.

The bytes of an upload reach the service as they were sent, and thumbnails reach the browser as they are stored: nothing
encodes an image again on the way, for that would wash out what the page is to show.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware

from hardrank.serving.page.allow_list import PageGuard
from hardrank.serving.page.events import Events
from hardrank.serving.page.layout import lay_out
from hardrank.serving.page.theme import HEAD, STYLE, theme
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings

_FOLDER_VARIABLE: Final = "GRADIO_TEMP_DIR"
_QUEUE: Final = 64
"""Calls of the page's functions that may wait; above, the page says that the server is busy."""
_AT_ONCE: Final = 16
"""Calls that run at once; each mostly waits for the batches that it shares with all callers."""
_CACHE_S: Final = (60, 600)
"""Seconds between clearings of the folder of uploads, and the age at which an upload goes."""


def create_page(service: SearchService, settings: Settings) -> gr.Blocks:
    """Build the page. Its theme and style are arguments of mounting in Gradio, so `mount_page` is what serves it."""
    _own_folder()
    blocks = gr.Blocks(title="hardrank · image search", analytics_enabled=False, delete_cache=_CACHE_S)
    with blocks:
        lay_out(blocks, Events(service, settings))
    blocks.queue(max_size=_QUEUE, default_concurrency_limit=_AT_ONCE, api_open=False)
    return blocks


def mount_page(
    app: FastAPI,
    service: SearchService,
    settings: Settings,
    *,
    auth: Callable[[str, str], bool] | None = None,
    path: str = "/",
) -> None:
    """Serve the page by `app`, which must have all its own routes already: at "/" the page takes what is left.

    `auth` says whether a name and a key may see it; None: everybody may.
    """
    folder = _own_folder()
    gr.mount_gradio_app(
        app,
        create_page(service, settings),
        path=path,
        server_name=settings.network.host,
        server_port=settings.network.port,
        footer_links=[],
        run_history=False,
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [
                Middleware(
                    PageGuard,
                    folder=folder,
                    upload_bytes=settings.limits.body_bytes,
                    kept_bytes=settings.limits.held_bytes,
                    kept_s=_CACHE_S[1],
                ),
            ],
        },
        auth=auth,
        auth_message="The key of the API is the password; any name will do.",
        allowed_paths=[],
        show_error=False,
        max_file_size=settings.limits.image_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css_paths=STYLE,
        head=HEAD,
    )


def _own_folder() -> Path:
    """Give a folder for uploads that no other program and no other user reads; Gradio knows it by its variable."""
    if _FOLDER_VARIABLE not in os.environ:
        folder = tempfile.mkdtemp(prefix="hardrank-page-")
        os.environ[_FOLDER_VARIABLE] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(os.environ[_FOLDER_VARIABLE]).resolve()
