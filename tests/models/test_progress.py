"""Progress on a terminal and as plain lines."""

import io

import pytest
from rich.console import Console

from hardrank.models.progress import ConsoleProgress, StageProgress, duration_text

ODD = "tricky [/b] row [bold]x :smile:"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(reports: list[tuple[float, int]], *, total: int = 100) -> list[str]:
    """Return the plain lines for reports of (seconds since the start, done)."""
    clock, out = Clock(), io.StringIO()
    with ConsoleProgress(Console(file=out, width=150), clock=clock) as show:
        for seconds, done in reports:
            clock.now = 100.0 + seconds
            show(StageProgress(stage="images", done=done, total=total))
    return out.getvalue().splitlines()


def test_plain_lines_show_rate_time_left_and_duration() -> None:
    lines = lines_of([(0, 0), (20, 20), (150, 100)])
    assert [line.split()[1] for line in lines] == ["0/100", "20/100", "100/100"]
    assert lines[1].endswith("1/s  80 s left")
    assert lines[2].endswith("done in 2 min")


def test_plain_lines_come_every_ten_seconds() -> None:
    lines = lines_of([(second, second) for second in range(40)])
    assert [line.split()[1] for line in lines] == ["0/100", "10/100", "20/100", "30/100"]


def test_the_end_is_printed_once() -> None:
    assert len(lines_of([(0, 0), (1, 100), (2, 100), (30, 100)])) == 2


def test_work_done_before_the_first_report_does_not_count_for_the_rate() -> None:
    """A resumed stage starts at 90; ten seconds for one item leave 90 s for nine."""
    assert lines_of([(0, 90), (10, 91)])[1].endswith("0.1/s  90 s left")


def test_the_time_left_follows_the_recent_rate() -> None:
    """After 1000 quick reports, 1000 slow ones: the time left is that of the slow rate."""
    quick = [(0.2 * i, i) for i in range(1000)]
    slow = [(200.0 + 2 * i, 1000 + i) for i in range(1000)]
    assert "0.5/s" in lines_of([*quick, *slow], total=10_000)[-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_brackets_and_emoji_codes_are_shown_literally(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=150, height=8)
    with ConsoleProgress(console) as show:
        for number in range(20):  # more stages than the terminal has lines
            show(StageProgress(stage=f"{ODD} · {number}", done=1, total=1, measures={"[/b]": 1}))
    assert f"{ODD} · 19" in out.getvalue()
    assert "[/b] 1" in out.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_name_and_time_left_stay_whole_where_measures_do_not_fit(width: int) -> None:
    """The name is the longest of training."""
    clock, out = Clock(), io.StringIO()
    name = "attacks with another seed on benign"
    measures = {f"measure {number}": 0.5 for number in range(12)}
    console = Console(file=out, force_terminal=True, color_system=None, width=width, height=30)
    with ConsoleProgress(console, clock=clock) as show:
        show(StageProgress(stage=name, done=0, total=1800, measures=measures))
        clock.now += 600
        show(StageProgress(stage=name, done=600, total=1800, measures=measures, later_seconds=24000.0))
        show(StageProgress(stage="warmup-8", done=7, total=7, measures=measures))
        out.seek(0)
        out.truncate()
    first, second, *rest = out.getvalue().rpartition("\x1b[2K")[2].splitlines()
    assert first.startswith(f"{name} ")
    assert "600/1800 " in first
    assert "20 min left, run 7 h 0 min " in first
    assert second.startswith("warmup-8 ")
    assert "done in 0 s " in second
    assert max(len(first), len(second)) <= width
    assert rest in ([], ["\x1b[?25h"]), "each stage is one line"


def test_a_note_has_a_line_of_its_own_at_any_width() -> None:
    out, note = io.StringIO(), "about 6 h 50 min " * 20
    with ConsoleProgress(Console(file=out, force_terminal=True, width=80)) as show:
        show(StageProgress(stage="checks", done=1, total=1, note=note))
    assert note in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (35, "35 s"), (5820, "97 min"), (24600, "6 h 50 min"), (7199, "2 h 0 min")]
)
def test_durations_are_in_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_pace_of_all_stages_replaces_that_of_one_and_is_not_cut(width: int) -> None:
    out = io.StringIO()
    stage, whole = "attacks with another seed on demo-robust", "audit 16 %, about 4 min left"
    with ConsoleProgress(Console(file=out, force_terminal=True, width=width, color_system=None)) as show:
        show(StageProgress(stage=stage, done=1280, total=3200, measures={"loss": 0.123}, whole=whole))
    shown = out.getvalue()
    assert stage in shown
    assert whole in shown
    assert "0.123" not in shown
