"""Progress of long work on a terminal, or as plain lines where there is none."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from hardrank.trainer.runtime.progress import Progress

_PLAIN_EVERY_S = 10.0


class ConsoleProgress:
    """Shows each stage with a bar, its measures and the time left. Use as a context manager, call with `Progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description:<22}", markup=False),  # stages are named by people, who may write brackets
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[measures]}", style="dim", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._spoken: dict[str, float] = {}
        self._finished: set[str] = set()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Show where a stage stands."""
        text = "  ".join(f"{name} {value:.3g}" for name, value in progress.measures.items())
        if not self._console.is_terminal:
            self._line(progress, text)
            return
        if progress.stage not in self._tasks:
            self._make_room()
            self._tasks[progress.stage] = self._bars.add_task(progress.stage, total=progress.total, measures="")
        self._bars.update(self._tasks[progress.stage], completed=progress.done, total=progress.total, measures=text)

    def _make_room(self) -> None:
        """The oldest finished stages go where the terminal is too low for one more."""
        finished = [task.id for task in self._bars.tasks if task.finished]
        for task in finished[: max(0, len(self._bars.tasks) + 2 - self._console.height)]:
            self._bars.remove_task(task)
            self._tasks = {stage: other for stage, other in self._tasks.items() if other != task}

    def _line(self, progress: Progress, text: str) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(progress.stage, (now, progress.done))
        finished = progress.done >= progress.total
        if progress.stage in self._finished:
            return
        if finished:
            self._finished.add(progress.stage)
        if not finished and now - self._spoken.get(progress.stage, -_PLAIN_EVERY_S) < _PLAIN_EVERY_S:
            return
        self._spoken[progress.stage] = now
        done = progress.done - first
        left = f"{(now - began) / done * (progress.total - progress.done):.0f} s left" if done else "…"
        ending = f"done in {now - began:.0f} s" if finished else left
        print(
            f"{progress.stage:<22} {progress.done}/{progress.total}  {ending}  {text}".rstrip(),
            file=sys.stdout,
            flush=True,
        )
