"""Waiting for what is bound to come: on a busy machine that may take minutes, and no test fails for it."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import Final

import httpx

PATIENCE_S: Final = 300.0


def until(condition: Callable[[], object]) -> None:
    """Look again and again, until it is so."""
    end = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < end, "waited in vain"
        sleep(0.01)


def patient_client(url: str) -> httpx.Client:
    """A client of a server.

    It is made once for many requests, since a client reads all certificates of the machine when it is made. Each
    request has a connection of its own, for the server may close one that is kept just when it is used again.
    """
    return httpx.Client(base_url=url, timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0))
