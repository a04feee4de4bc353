"""Progress of long work: what is reported, and its display on a terminal or as plain lines elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

_PLAIN_EVERY_S: Final = 10.0
_RECENT: Final = 200
"""Number of reports over which the rate is averaged."""
_WIDE: Final = 100
"""Columns of a terminal from which rate and elapsed time are shown, beside the name, the bar and the time left."""


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """How far a stage of long work has got."""

    stage: str
    whole: str = ""
    """Share and time left of all stages together, in words, to show instead of the stage's own pace and measures."""
    done: int
    total: int
    measures: Mapping[str, float] = field(default_factory=dict)
    """Current values to show beside the progress, such as the loss."""
    later_seconds: float | None = None
    """Estimated seconds of the stages after this one; None if unknown."""
    note: str = ""
    """A line to print."""


OnProgress = Callable[[StageProgress], None]
"""Called with each progress report."""


class ConsoleProgress:
    """Display of one or more stages, each with its rate, time left and measures.

    On a terminal every stage has a bar; what does not fit into its width is cut from the measures. Elsewhere, a plain
    line is printed at a stage's first report, every ten seconds and at its end. Use as a context manager and call with
    `StageProgress`.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._is_wide = not console.is_terminal or console.width >= _WIDE
        whole = Column(no_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description:<22}", markup=False),  # stage names may contain brackets
            BarColumn(bar_width=24),
            MofNCompleteColumn(table_column=whole),
            *([TimeElapsedColumn(table_column=whole)] if self._is_wide else []),
            TextColumn("{task.fields[pace]}"),
            _MeasuresColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._paces: dict[str, _Pace] = {}
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, progress: StageProgress) -> None:
        """Show the progress of a stage."""
        now = self._clock()
        pace = self._paces.setdefault(progress.stage, _Pace(now, progress.done))
        told = pace.describe(now, progress.done, progress.total, later=progress.later_seconds, rate=self._is_wide)
        measures = "  ".join(f"{name} {value:.3g}" for name, value in progress.measures.items())
        if progress.whole:
            told, measures = told if progress.done >= progress.total else progress.whole, ""
        if self._console.is_terminal:
            self._update_bar(progress, told, measures)
        elif pace.line_due(now, finished=progress.done >= progress.total):
            line = f"{progress.stage:<22} {progress.done}/{progress.total}  {told}  {measures}".rstrip()
            self._print(line)
        if progress.note:
            self._print(progress.note)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _update_bar(self, progress: StageProgress, pace: str, measures: str) -> None:
        if progress.stage not in self._tasks:
            self._remove_old_bars()
            self._tasks[progress.stage] = self._bars.add_task(
                progress.stage, total=progress.total, pace="", measures=""
            )
        task = self._tasks[progress.stage]
        self._bars.update(task, completed=progress.done, total=progress.total, pace=pace, measures=measures)

    def _remove_old_bars(self) -> None:
        """Remove the oldest finished stages if the terminal has no line left for another one."""
        finished = [task.id for task in self._bars.tasks if task.finished]
        for task in finished[: max(0, len(self._bars.tasks) + 2 - self._console.height)]:
            self._bars.remove_task(task)
            self._tasks = {stage: other for stage, other in self._tasks.items() if other != task}


class _MeasuresColumn(ProgressColumn):
    """The measures on one line, which is cut where the terminal is too narrow."""

    def render(self, task: Task) -> Text:
        """Return the measures of a task."""
        return Text(task.fields["measures"], style="dim", no_wrap=True, overflow="ellipsis")


class _Pace:
    """Rate of a stage since its first report; work that was already done by then does not count."""

    def __init__(self, now: float, done: int) -> None:
        self._began = now
        self._reports: deque[tuple[float, int]] = deque([(now, done)], maxlen=_RECENT)
        self._last_line: float | None = None
        self._finished = False

    def describe(self, now: float, done: int, total: int, *, later: float | None, rate: bool) -> str:
        """Return the rate, unless `rate` is False, and the time left of stage and run; the duration once finished."""
        if now - self._reports[-1][0] > 0.1:
            self._reports.append((now, done))
        if done >= total:
            return f"done in {duration_text(now - self._began)}"
        since, first = self._reports[0]
        if done <= first or now <= since:
            return ""
        pace = (done - first) / (now - since)
        left = (total - done) / pace
        run = f", run {duration_text(left + later)}" if later else ""
        shown = f"{pace:.3g}/s  " if rate else ""
        return f"{shown}{duration_text(left)} left{run}"

    def line_due(self, now: float, *, finished: bool) -> bool:
        """Return whether to print a plain line now."""
        recent = self._last_line is not None and now - self._last_line < _PLAIN_EVERY_S
        if self._finished or (recent and not finished):
            return False
        self._last_line, self._finished = now, finished
        return True


def duration_text(seconds: float) -> str:
    """Return a duration in words, such as `80 s`, `97 min` or `6 h 50 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
