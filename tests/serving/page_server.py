"""A server with the page on the loopback interface, in a thread, whose service records the searches."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn

from hardrank.serving.api.auth import Keyring
from hardrank.serving.app import create_app
from hardrank.serving.search.models import Model
from hardrank.serving.search.service import SearchService
from hardrank.serving.search.types import ImageQuery, Query, SearchAnswer, SearchOptions
from hardrank.serving.settings import Settings
from tests.waiting import PATIENCE_S, patient_client, until


class RecordingService(SearchService):
    """A service that records its searches and fails on demand."""

    def __init__(self, models: Sequence[Model], settings: Settings) -> None:
        super().__init__(models, settings)
        self.searches: list[tuple[Query, SearchOptions]] = []
        self.callers: set[str] = set()
        self.failure: BaseException | None = None

    async def search(self, query: Query, options: SearchOptions, *, caller: str = "") -> SearchAnswer:
        self.searches.append((query, options))
        self.callers.add(caller)
        if self.failure is not None:
            raise self.failure
        return await super().search(query, options, caller=caller)

    def images(self) -> list[bytes]:
        """The bytes of all images that were searched with, in order."""
        return [query.data for query, _ in self.searches if isinstance(query, ImageQuery)]


@dataclass(frozen=True, kw_only=True, eq=False)
class PageServer:
    url: str
    service: RecordingService
    client: httpx.Client
    """Talks to the server directly."""


@contextmanager
def page_server(
    models: Sequence[Model], settings: Settings | None = None, keyring: Keyring | None = None
) -> Iterator[PageServer]:
    """Serve the API and the page until the block ends."""
    service = RecordingService(models, settings or Settings())
    app = create_app(service, service.settings, keyring or Keyring())
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with patient_client(url) as client:
            until(lambda: _is_ready(client, service))
            yield PageServer(url=url, service=service, client=client)
    finally:
        server.should_exit = True
        thread.join(timeout=PATIENCE_S)
        listener.close()


def _is_ready(client: httpx.Client, service: SearchService) -> bool:
    """Whether the server is ready and, with two models, has calibrated their agreement."""
    try:
        ready = client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
    return ready and (service.monitor is None or not service.monitor.stale)
