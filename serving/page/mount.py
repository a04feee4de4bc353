"""Mount the search page in the FastAPI app.

Uploads reach the service, and thumbnails the browser, byte for byte. Re-encoding an image, as Gradio does by default,
would destroy adversarial perturbations.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Mount

from hardrank.serving.api.bodies import BodyReader
from hardrank.serving.api.rate_limit import RateLimit
from hardrank.serving.page.allow_list import AllowListMiddleware
from hardrank.serving.page.events import PageEvents
from hardrank.serving.page.item_images import ItemImages
from hardrank.serving.page.layout import build_layout
from hardrank.serving.page.sessions import PendingCalls, keep_no_sessions
from hardrank.serving.page.theme import HEAD, STYLE, theme
from hardrank.serving.page.uploads import UploadStore
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings

_QUEUE_SIZE: Final = 64
"""Calls that may wait. Further ones get a busy reply."""
_CONCURRENCY: Final = 16
"""Calls that run at once. Each mostly waits for a batch that all callers share."""
_KEEP_UPLOADS_S: Final = 600


def create_page(
    service: SearchService, settings: Settings, uploads: UploadStore, *, may_scan: bool = False
) -> gr.Blocks:
    """Build the page. `mount_page` adds its theme and style, which Gradio takes when mounting."""
    blocks = gr.Blocks(title="hardrank · image search", analytics_enabled=False)
    with blocks:
        build_layout(blocks, PageEvents(service, settings, uploads, may_scan=may_scan))
    blocks.queue(max_size=_QUEUE_SIZE, default_concurrency_limit=_CONCURRENCY, api_open=False)
    return blocks


def mount_page(
    app: FastAPI,
    service: SearchService,
    settings: Settings,
    bodies: BodyReader,
    rate: RateLimit,
    *,
    auth: Callable[[str, str], bool] | None = None,
    may_scan: bool = False,
) -> Callable[[], None]:
    """Add the page to `app`.

    Args:
        app: The app of the HTTP API. It must have all its own routes already: the page takes the rest.
        service: Answers the searches.
        settings: Limits and network settings of the server.
        bodies: Reads the bodies of requests, within the limits that the page shares with the API.
        rate: Limits what is posted to the page, by the API's middleware, and the originals that are read.
        auth: Whether a user name and an API key may open the page. None: the page is public.
        may_scan: Whether visitors may list suspicious items.

    Returns:
        What makes all visitors log in again.
    """
    limits = settings.limits
    folder = _upload_folder()
    space = min(limits.held_bytes, shutil.disk_usage(folder).free // 2)
    uploads = UploadStore(folder, limit=space, largest=limits.image_bytes, keep_s=_KEEP_UPLOADS_S)
    blocks = create_page(service, settings, uploads, may_scan=may_scan)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=settings.network.host,
        server_port=settings.network.port,
        root_path=settings.network.root_path or None,
        footer_links=[],
        run_history=False,
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [
                Middleware(
                    AllowListMiddleware,
                    blocks=blocks,
                    bodies=bodies,
                    uploads=uploads,
                    calls=PendingCalls(blocks),
                    images=ItemImages(service, rate),
                    image_bytes=limits.image_bytes,
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
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    keep_no_sessions(blocks, mounted.app)
    logins: dict[str, str] = mounted.app.tokens  # type: ignore[attr-defined]
    return logins.clear


def _upload_folder() -> Path:
    """Make a folder for uploads that only this user can read, and that is deleted at the end."""
    folder = tempfile.mkdtemp(prefix="hardrank-page-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
