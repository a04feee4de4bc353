"""Compare defenses: train and measure rows of defenses on one data set, with the same seeds.

STUDY is the name of a study that comes with hardrank, or a YAML file (see docs/studies.md). Each of its rows is
trained and attacked. Results, a table and plots are written to studies/STUDY. Finished trials are kept: run the
same command again to continue after an interruption, or to train rows that you have added.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final

import tyro
from rich.console import Console
from rich.text import Text

from hardrank.models.command_errors import report_errors
from hardrank.models.files import write_json
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress, OnProgress, StageProgress
from hardrank.trainer.config import ConfigError
from hardrank.trainer.runtime.launch import ROOT, Launch, LaunchError
from hardrank.trainer.runtime.run_folder import exclusive
from hardrank.trainer.studies.estimate import estimate_study
from hardrank.trainer.studies.parallel import run_trials
from hardrank.trainer.studies.plan import load_study, study_names
from hardrank.trainer.studies.plots import write_plots
from hardrank.trainer.studies.samplers import measure_samplers
from hardrank.trainer.studies.schedule import StudyState, read_state, selected
from hardrank.trainer.studies.table import summarize, write_table
from hardrank.trainer.studies.trial import StudyRun
from hardrank.trainer.studies.trial_list import Trial, trials

_DEFAULT_STUDY: Final = "demo"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    study: Annotated[str, tyro.conf.Positional] = _DEFAULT_STUDY
    """Name of a study, or a YAML file."""
    jobs: int = 1
    """Trials that run at the same time, in processes that share the threads. Use 1 on a GPU."""
    only: tuple[str, ...] = ()
    """Run only these rows: each value is a title, or else part of titles. The table shows all finished rows."""
    plan: bool = False
    """Only estimate the hours of what is not trained yet, on this machine. Nothing is written."""
    table: bool = False
    """Only write the table and the plots of the trials that are finished, here or on another machine."""
    data_root: Path | None = None
    """Folder of the images, if it is not the one of the recipe."""
    results: Path = ROOT / "studies"
    """Folder for results; each study gets a folder of its name in it. docs/results has the published ones."""
    launch: Annotated[Launch, tyro.conf.arg(name="")] = field(default_factory=Launch)


@report_errors(interrupted="Interrupted. Run the same command again to continue.")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; by default `sys.argv[1:]`.

    Returns:
        The exit status: 0 for success, 2 for a mistake in the options or the study, 130 for an interruption.
    """
    command = tyro.cli(
        Command,
        prog=typed("study"),
        description=_description(),
        args=arguments,
        config=(tyro.conf.EnumChoicesFromValues,),
    )
    console = Console()
    if command.plan:
        _print_plan(console, command)
        return 0
    with ConsoleProgress(console) as report:
        folder, missing = run_study(command, report)
    # As `Text`, since titles and paths may look like rich's markup.
    console.print(Text((folder / "README.md").read_text(encoding="utf-8")), soft_wrap=True)
    console.print(Text(f"Written to {folder}" + (f"; {missing} trials are not done yet" if missing else "")))
    return 0


def _print_plan(console: Console, command: Command) -> None:
    run = open_study(command)
    with ConsoleProgress(console) as report:
        estimate = estimate_study(run, _read(command, run), report)
    for line in estimate.lines():
        console.print(Text(line), soft_wrap=True)


def _description() -> str:
    program = typed("study")
    examples = {
        f"{program} demo": "compare recipes on the demo data set",
        f"{program} caltech101 --plan": "estimate the hours, row by row",
        f"{program} caltech101 --only EST FARE": "run some rows only",
        f"{program} mine.yaml --jobs 2": "run your own study, two trials at a time",
    }
    width = max(map(len, examples))
    lines = "\n".join(f"  {command:<{width}}  {purpose}" for command, purpose in examples.items())
    return f"{__doc__}\nStudies: {', '.join(study_names())}.\nExamples:\n{lines}"


_DRAW_EVERY_S: Final = 60.0
"""Least time between two writings of the table and the plots, which take longer than a tiny trial."""


def run_study(command: Command, report: OnProgress) -> tuple[Path, int]:
    """Run the trials that are not finished yet; write the table and the plots after each, at most once a minute.

    Returns:
        The folder of the results, and the number of trials that are still missing.

    Raises:
        HardrankError: a subclass of it, for an invalid study or options, images that cannot be read, or a study that
            another process is running.
    """
    run = open_study(command)
    study = run.study
    with exclusive(command.launch.runs / f"study-{study.name}"):
        state = _read(command, run)
        total, done, drawn = len(state.due), 0, -_DRAW_EVERY_S
        if total and not command.table:
            report(StageProgress(stage=f"study {study.name}", done=0, total=total))
        if not command.table:
            for _ in run_trials(run, lambda: _read(command, run).ready, jobs=command.jobs, report=report):
                done += 1
                report(StageProgress(stage=f"study {study.name}", done=done, total=total))
                if monotonic() - drawn >= _DRAW_EVERY_S:
                    _write_summary(run, _read(command, run), command.study)
                    drawn = monotonic()
            state = _read(command, run)
        samplers = run.results / "samplers.json"
        if study.sampler_batches and not samplers.exists() and not command.table:
            write_json(samplers, measure_samplers(run, state.planned[0], report))
        missing = _write_summary(run, state, command.study)
    return run.results, missing


def open_study(command: Command) -> StudyRun:
    """Read the study, and reject mistakes that would show only after hours, or never if all trials are finished."""
    study = load_study(command.study)
    _check(command, trials(study, data_root=command.data_root))
    return StudyRun(study=study, launch=command.launch, results=command.results / study.name)


def _read(command: Command, run: StudyRun) -> StudyState:
    return read_state(run, data_root=command.data_root, only=command.only)


def _check(command: Command, planned: Sequence[Trial]) -> None:
    """Reject options that do not fit the study."""
    if command.jobs < 1:
        raise LaunchError(f"--jobs must be at least 1, not {command.jobs}")
    if command.data_root is not None and not command.data_root.is_dir():
        raise ConfigError(f"--data-root {command.data_root} is not a folder")
    titles = list(dict.fromkeys(trial.title for trial in planned))
    for text in command.only:
        if not selected(titles, (text,)):
            raise ConfigError(f"no row's title contains {text!r}; the rows are {'; '.join(titles)}")


def _write_summary(run: StudyRun, state: StudyState, typed_study: str) -> int:
    """Write the table and the plots of the finished trials; returns the number of missing ones."""
    samplers = run.results / "samplers.json"
    hardness: dict[str, Any] = json.loads(samplers.read_text(encoding="utf-8")) if samplers.exists() else {}
    choices = {title: choice.to_dict() for title, choice in state.choices.items()}
    summary = summarize(run.study, state.planned, state.done, hardness, choices=choices, typed=typed_study)
    write_table(summary, run.results, write_plots(summary, list(state.done.values()), run.results))
    return len(summary["missing"])


if __name__ == "__main__":
    sys.exit(main())
