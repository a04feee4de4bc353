"""What the server keeps of the page's visitors: nothing between calls, and answers only until they are read.

Gradio keeps a copy of all components for each session, with their last values, and messages until somebody reads them.
A visitor chooses the name of a session, so both would grow without a limit.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr
from gradio.state_holder import SessionState, StateHolder

from hardrank.serving.search.admission import OverloadedError

_MOST: Final = 96
"""Calls, of all visitors together, whose answers were not read yet. An answer takes a few megabytes."""
_MOST_OF_CALLER: Final = 24
_UNREAD_S: Final = 30.0
"""Seconds after which the answers of a session that nobody reads are dropped."""


class CallState(SessionState):
    """The components as they were built, for one call."""

    def __init__(self, blocks: gr.Blocks) -> None:
        # Not the constructor of the base class, which copies the configuration of all components.
        self.blocks_config = copy(blocks.default_config)
        self.config_values = {}
        self.state_data = {}
        self._state_ttl = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 0

    def __setitem__(self, key: int, value: Any) -> None:
        self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class NoSessions(StateHolder):
    """Gives every call its own state, and keeps none."""

    def __getitem__(self, session_id: str) -> SessionState:
        return CallState(self.blocks)


def keep_no_sessions(blocks: gr.Blocks, app: Any) -> None:
    """Make Gradio keep nothing of its visitors. `app` is the Gradio app of `blocks`."""
    app.state_holder = NoSessions()  # type: ignore[no-untyped-call]
    app.state_holder.set_blocks(blocks)
    # Gradio records its last calls, and summarizes them after each call, for a monitor that is not reachable.
    blocks._queue.ANALYTICS_MAX_EVENTS = 1
    blocks._queue.ANAYLTICS_CACHE_FREQUENCY = 2**63


@dataclass(kw_only=True)
class _Session:
    caller: str
    joining: int = 0
    """Calls that are being added to the queue."""
    readers: int = 0
    expiry: asyncio.TimerHandle | None = None
    """Drops the answers, unless somebody comes to read them."""

    def stay(self) -> None:
        """Keep the answers until the next release."""
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None


class PendingCalls:
    """Limits the calls whose answers were not read yet, and drops what nobody reads. Used from one event loop."""

    def __init__(
        self,
        blocks: gr.Blocks,
        *,
        most: int = _MOST,
        most_of_caller: int = _MOST_OF_CALLER,
        unread_s: float = _UNREAD_S,
    ) -> None:
        self._blocks = blocks
        self._most = most
        self._most_of_caller = most_of_caller
        self._unread_s = unread_s
        self._sessions: dict[str, _Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __contains__(self, session: str) -> bool:
        """Whether a session has answers to read."""
        return session in self._sessions

    @contextmanager
    def joining(self, session: str, caller: str) -> Iterator[None]:
        """Admit a call, which the block adds to the queue; raises `OverloadedError`."""
        if sum(self._count(name) for name in self._sessions) >= self._most:
            raise OverloadedError("The page is busy; try again in a second.")
        own = (name for name, one in self._sessions.items() if one.caller == caller)
        if sum(self._count(name) for name in own) >= self._most_of_caller:
            raise OverloadedError("Too many searches from your address are pending; try again in a second.")
        pending = self._sessions.setdefault(session, _Session(caller=caller))
        pending.joining += 1
        pending.stay()
        try:
            yield
        finally:
            pending.joining -= 1
            self._release(session, pending)

    @contextmanager
    def reading(self, session: str) -> Iterator[None]:
        """Keep the answers of a pending session while the block reads them."""
        pending = self._sessions[session]
        pending.readers += 1
        pending.stay()
        try:
            yield
        finally:
            pending.readers -= 1
            self._release(session, pending)

    def _count(self, session: str) -> int:
        pending = self._sessions[session]
        return max(1, pending.joining + len(self._blocks._queue.pending_event_ids_session.get(session, ())))

    def _release(self, session: str, pending: _Session) -> None:
        """Forget a session if all its answers were read; else drop them when nobody has come for them in time."""
        if pending.joining or pending.readers:
            return
        if self._blocks._queue.pending_event_ids_session.get(session):
            # The timer alone decides: uvloop's may end some milliseconds early by any other clock.
            loop = asyncio.get_running_loop()
            pending.expiry = loop.call_later(self._unread_s, self._expire, session, pending)
        else:
            self._forget(session)

    def _expire(self, session: str, pending: _Session) -> None:
        task = asyncio.create_task(self._drop(session, pending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drop(self, session: str, pending: _Session) -> None:
        await self._blocks._queue.clean_events(session_hash=session)
        if self._sessions.get(session) is pending and not (pending.joining or pending.readers):
            self._forget(session)

    def _forget(self, session: str) -> None:
        self._sessions.pop(session).stay()
        queue = self._blocks._queue
        queue.pending_messages_per_session.pop(session, None)
        queue.pending_event_ids_session.pop(session, None)
