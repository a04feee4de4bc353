"""What other processes commit to the served indexes, taken over as they do."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from hardrank.serving.agreement.monitor import Hint
from hardrank.serving.search.models import Model

_LOG: Final = logging.getLogger(__name__)
_REFRESH_S: Final = 1.0
"""Seconds between looks for what other processes have committed."""


async def follow(models: Mapping[str, Model], hint: Hint | None, *, is_ready: Callable[[], bool]) -> None:
    """Keep the indexes, and once the server is ready the hint, up to date until cancelled."""
    while True:
        try:
            for model in models.values():
                await asyncio.to_thread(model.index.refresh)
            if is_ready() and hint is not None and hint.stale:
                await asyncio.to_thread(hint.calibrate)
        except Exception:
            _LOG.exception("the indexes cannot be refreshed")
        await asyncio.sleep(_REFRESH_S)
