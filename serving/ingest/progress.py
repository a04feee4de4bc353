"""Progress of a build on a terminal, or as plain lines where there is none."""

import time
from collections import deque
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_S: Final = 10.0
_RECENT: Final = 200
"""Reports that the rate is taken over, for what a resumed build passes over at its start says nothing of the rest."""


class ConsoleProgress:
    """Shows stages with a bar, the rate and the time left. Use as a context manager, call with (stage, done, total)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._stages: dict[str, _Stage] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show where a stage stands."""
        if stage not in self._stages:
            self._stages[stage] = _Stage(self._bars.add_task(stage, total=total, pace=""))
        own = self._stages[stage]
        pace = own.pace(done, total)
        if self._console.is_terminal:
            self._bars.update(own.task, completed=done, total=total, pace=pace)
        elif own.is_due(done >= total):
            self._console.print(f"{stage:<18} {done}/{total}  {pace}", highlight=False, soft_wrap=True)


class _Stage:
    """How fast a stage goes."""

    def __init__(self, task: TaskID) -> None:
        self.task = task
        self._began = time.monotonic()
        self._reports: deque[tuple[float, int]] = deque([(self._began, 0)], maxlen=_RECENT)
        self._spoken = self._began
        self._over = False

    def pace(self, done: int, total: int) -> str:
        """Say the rate and the time left; at the end, the time it took."""
        now = time.monotonic()
        if now - self._reports[-1][0] > 0.1:
            self._reports.append((now, done))
        if done >= total:
            return f"done in {_duration(now - self._began)}"
        since, first = self._reports[0]
        if done <= first or now <= since:
            return ""
        rate = (done - first) / (now - since)
        return f"{rate:.3g}/s  {_duration((total - done) / rate)} left"

    def is_due(self, over: bool) -> bool:
        """Whether to write a plain line now."""
        now = time.monotonic()
        if self._over or (not over and now - self._spoken < _PLAIN_EVERY_S):
            return False
        self._spoken, self._over = now, over
        return True


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
