"""Mount the search page in the FastAPI app.

Uploads reach the service, and thumbnails the browser, byte for byte. Re-encoding an image, as Gradio does by default,
would destroy adversarial perturbations.
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

from hardrank.serving.page.allow_list import AllowListMiddleware
from hardrank.serving.page.events import PageEvents
from hardrank.serving.page.layout import build_layout
from hardrank.serving.page.theme import HEAD, STYLE, theme
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings

_FOLDER_VARIABLE: Final = "GRADIO_TEMP_DIR"
_QUEUE_SIZE: Final = 64
"""Calls that may wait. Further ones are told that the server is busy."""
_CONCURRENCY: Final = 16
"""Calls that run at once. Each mostly waits for a batch that all callers share."""
_DELETE_EVERY_S: Final = 60
_KEEP_UPLOADS_S: Final = 600


def create_page(service: SearchService, settings: Settings) -> gr.Blocks:
    """Build the page. `mount_page` adds its theme and style, which Gradio takes when mounting."""
    _upload_folder()
    blocks = gr.Blocks(
        title="hardrank · image search", analytics_enabled=False, delete_cache=(_DELETE_EVERY_S, _KEEP_UPLOADS_S)
    )
    with blocks:
        build_layout(blocks, PageEvents(service, settings))
    blocks.queue(max_size=_QUEUE_SIZE, default_concurrency_limit=_CONCURRENCY, api_open=False)
    return blocks


def mount_page(
    app: FastAPI,
    service: SearchService,
    settings: Settings,
    *,
    auth: Callable[[str, str], bool] | None = None,
    path: str = "/",
) -> None:
    """Add the page to `app`.

    Args:
        app: The app of the HTTP API. It must have all its own routes already: at "/" the page takes the rest.
        service: Answers the searches.
        settings: Limits and network settings of the server.
        auth: Whether a user name and an API key may open the page. None: the page is public.
        path: Where to mount the page.
    """
    folder = _upload_folder()
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
                    AllowListMiddleware,
                    folder=folder,
                    upload_bytes=settings.limits.body_bytes,
                    kept_bytes=settings.limits.held_bytes,
                    kept_s=_KEEP_UPLOADS_S,
                ),
            ],
        },
        auth=auth,
        auth_message="Enter your API key as the password. Any user name works.",
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


def _upload_folder() -> Path:
    """Return a folder for uploads that only this user can read. Gradio takes it from its environment variable."""
    if _FOLDER_VARIABLE not in os.environ:
        folder = tempfile.mkdtemp(prefix="hardrank-page-")
        os.environ[_FOLDER_VARIABLE] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(os.environ[_FOLDER_VARIABLE]).resolve()
