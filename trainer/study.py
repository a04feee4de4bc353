"""Compare defenses: train and measure a list of recipes on one data set with the same seeds.

    python trainer/study.py [STUDY] [--options]

STUDY is the name of a study that comes with hardrank (`caltech101` when left out) or a YAML file. Each row of it is
trained and attacked; results, a table and plots land in docs/results/STUDY. What is finished is kept: the same
command goes on after an interruption, and trains only what is new when rows are added.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress, OnProgress, StageProgress
from hardrank.trainer.config import ConfigError
from hardrank.trainer.runtime.launch import ROOT, Launch, LaunchError
from hardrank.trainer.runtime.run_folder import exclusive
from hardrank.trainer.studies.plan import Trial, load_study, study_names, trials
from hardrank.trainer.studies.plots import write_plots
from hardrank.trainer.studies.table import summarise, write_table
from hardrank.trainer.studies.work import Bench, carry_out, sampler_hardness

_DEFAULT_STUDY = "caltech101"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    study: Annotated[str, tyro.conf.Positional] = _DEFAULT_STUDY
    """The name of a study, or a YAML file."""
    jobs: int = 1
    """Trials at a time, in processes of their own that share the cores; on a GPU leave it at 1."""
    only: str = ""
    """Carry out only the rows whose title contains this; the table still shows all that is finished."""
    data_root: Path | None = None
    """Folder of the images, where they do not lie at the recipe's place."""
    results: Path = ROOT / "docs" / "results"
    """Results get a folder of the study's name in it."""
    launch: Annotated[Launch, tyro.conf.arg(name="")] = field(default_factory=Launch)


def main(arguments: list[str] | None = None) -> int:
    """Carry out the command; gives the exit status: 0 done, 2 a mistake in what was asked, 130 interrupted."""
    errors = Console(stderr=True)
    try:
        command = tyro.cli(
            Command,
            prog=typed("study"),
            description=f"{__doc__}\nStudies: {', '.join(study_names())}.",
            args=arguments,
            config=(tyro.conf.EnumChoicesFromValues,),
        )
        console = Console()
        with ConsoleProgress(console) as report:
            folder, missing = run_study(command, report)
        # As `Text`, for titles and paths may hold what looks like rich's markup.
        console.print(Text((folder / "README.md").read_text(encoding="utf-8")), soft_wrap=True)
        console.print(Text(f"Written to {folder}" + (f"; {missing} trials are not done yet" if missing else "")))
    except HardrankError as error:
        errors.print(Text.assemble(("error", "bold red"), f": {error}"), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on where it stopped")
        return 130
    return 0


def run_study(command: Command, report: OnProgress) -> tuple[Path, int]:
    """Carry out what is not done yet, write the table after each trial; gives its folder and how many are missing.

    Raises subclasses of `HardrankError` for what cannot be carried out.
    """
    study = load_study(command.study)
    planned = trials(study, data_root=command.data_root)
    _check(command, planned)
    threads = max(1, (os.cpu_count() or 1) // command.jobs) if command.jobs > 1 else 0
    bench = Bench(study=study, launch=command.launch, results=command.results / study.name, threads=threads)
    with exclusive(command.launch.runs / f"study-{study.name}"):
        wanted = [trial for trial in planned if command.only in trial.title and not bench.place(trial).exists()]
        if wanted:
            report(StageProgress(stage=f"study {study.name}", done=0, total=len(wanted)))
        for done, _ in enumerate(_carried_out(bench, wanted, command.jobs, report), start=1):
            report(StageProgress(stage=f"study {study.name}", done=done, total=len(wanted)))
            _conclude(bench, planned, command.study)
        _measure_samplers(bench, planned, report)
        missing = _conclude(bench, planned, command.study)
    return bench.results, missing


def _check(command: Command, planned: list[Trial]) -> None:
    """Mistakes that would show after hours, or never where all is finished already."""
    if command.jobs < 1:
        raise LaunchError(f"--jobs is the number of trials at a time, 1 or more, not {command.jobs}")
    if command.data_root is not None and not command.data_root.is_dir():
        raise ConfigError(f"--data-root {command.data_root} is no folder")
    titles = dict.fromkeys(trial.title for trial in planned)
    if not any(command.only in title for title in titles):
        raise ConfigError(f"no row's title contains {command.only!r}; the rows are {'; '.join(titles)}")


def _carried_out(bench: Bench, wanted: list[Trial], jobs: int, report: OnProgress) -> Iterator[dict[str, Any]]:
    """Results as they come: one after the other here, or several at a time in processes of their own."""
    if jobs == 1:
        yield from (carry_out(bench, trial, report) for trial in wanted)
        return
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(_end_with_parent)
    with manager, ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent) as pool:
        told = manager.Queue()
        finished = Event()
        listener = Thread(target=_listen, args=(told, report, finished), daemon=True)
        listener.start()
        futures: list[Future[dict[str, Any]]] = [pool.submit(_work, bench, trial, told) for trial in wanted]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            finished.set()
            listener.join()


def _end_with_parent() -> None:
    """A worker whose parent is killed must not train on alone: the next start would do the same work beside it."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def _work(bench: Bench, trial: Trial, told: "Queue[StageProgress]") -> dict[str, Any]:
    return carry_out(bench, trial, told.put)


def _listen(told: "Queue[StageProgress]", report: OnProgress, finished: Event) -> None:
    while not finished.is_set():
        try:
            report(told.get(timeout=0.5))
        except Empty:
            continue
        except (EOFError, OSError):  # the manager has gone
            return


def _measure_samplers(bench: Bench, planned: list[Trial], report: OnProgress) -> None:
    """E[H] at the start of the first trial, once."""
    place = bench.results / "samplers.json"
    if bench.study.sampler_batches == 0 or place.exists():
        return
    write_json(place, sampler_hardness(bench, planned[0], report))


def _conclude(bench: Bench, planned: list[Trial], typed_study: str) -> int:
    """Write table and plots of what is finished; gives how many trials are missing."""
    done = {trial.key: _read(bench.place(trial)) for trial in planned if bench.place(trial).exists()}
    samplers = bench.results / "samplers.json"
    hardness = _read(samplers) if samplers.exists() else {}
    summary = summarise(bench.study, planned, done, hardness, typed=typed_study)
    write_table(summary, bench.results, write_plots(summary, list(done.values()), bench.results))
    return len(summary["missing"])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    sys.exit(main())
