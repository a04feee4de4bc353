"""Mount the search page in the FastAPI app.

Uploads reach the service, and thumbnails the browser, byte for byte. Re-encoding an image, as Gradio does by default,
would destroy adversarial perturbations.
"""

import shutil
from collections.abc import Callable
from typing import Any, Final

import gradio as gr
from fastapi import FastAPI
from gradio.brotli_middleware import BrotliMiddleware
from starlette.middleware import Middleware
from starlette.routing import Mount

from hardrank.serving.api.auth import Caller
from hardrank.serving.api.bodies import BodyReader
from hardrank.serving.api.rate_limit import RateLimit
from hardrank.serving.page.allow_list import AllowListMiddleware
from hardrank.serving.page.events import PageEvents
from hardrank.serving.page.item_images import ItemImages
from hardrank.serving.page.layout import build_layout
from hardrank.serving.page.logins import Logins
from hardrank.serving.page.sessions import PendingCalls, keep_no_sessions
from hardrank.serving.page.theme import HEAD, STYLE, theme
from hardrank.serving.page.upload_folder import make_upload_folder
from hardrank.serving.page.uploads import UploadStore
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings

_QUEUE_SIZE: Final = 64
"""Calls that may wait. Further ones get a busy reply."""
_CONCURRENCY: Final = 16
"""Calls that run at once. Each mostly waits for a batch that all callers share."""
_KEEP_UPLOADS_S: Final = 600


def create_page(
    service: SearchService, settings: Settings, uploads: UploadStore, *, may_scan: bool = False, sign_out: bool = False
) -> gr.Blocks:
    """Build the page, with a button to sign out if visitors sign in.

    `mount_page` adds its theme and style, which Gradio takes when mounting.
    """
    blocks = gr.Blocks(title="hardrank · image search", analytics_enabled=False)
    with blocks:
        build_layout(blocks, PageEvents(service, settings, uploads, may_scan=may_scan), sign_out=sign_out)
    blocks.queue(max_size=_QUEUE_SIZE, default_concurrency_limit=_CONCURRENCY, api_open=False)
    return blocks


def mount_page(
    app: FastAPI,
    service: SearchService,
    settings: Settings,
    bodies: BodyReader,
    rate: RateLimit,
    *,
    auth: Callable[[str], Caller | None] | None = None,
    may_scan: bool = False,
) -> Callable[[], None]:
    """Add the page to `app`.

    Args:
        app: The app of the HTTP API. It must have all its own routes already: the page takes the rest.
        service: Answers the searches.
        settings: Limits and network settings of the server.
        bodies: Reads the bodies of requests, within the limits that the page shares with the API.
        rate: Limits what is posted to the page, by the API's middleware, and the originals and uploads that are read.
        auth: Finds the caller of an API key, who may open the page. None: the page is public.
        may_scan: Whether visitors may list suspicious items.

    Returns:
        What makes all visitors log in again.
    """
    limits = settings.limits
    folder = make_upload_folder()
    space = min(limits.held_bytes, shutil.disk_usage(folder).free // 2)
    uploads = UploadStore(
        folder,
        limit=space,
        largest=limits.image_bytes,
        keep_s=_KEEP_UPLOADS_S,
        held=bodies.held,
    )
    logins = Logins(auth)
    blocks = create_page(service, settings, uploads, may_scan=may_scan, sign_out=logins.needed)
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
                    images=ItemImages(service, rate, uploads, bodies.held),
                    logins=logins,
                    image_bytes=limits.image_bytes,
                ),
            ],
        },
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
    gradio: Any = mounted.app
    # It compresses every response anew, on the event loop.
    gradio.user_middleware = [one for one in gradio.user_middleware if one.cls is not BrotliMiddleware]
    keep_no_sessions(blocks, gradio)
    return logins.clear
