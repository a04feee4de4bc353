"""Runs trials of a study one after another, or several at a time in processes of their own."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from multiprocessing.managers import SyncManager
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.studies.trial import StudyRun, run_trial
from hardrank.trainer.studies.trial_list import Trial


def run_trials(
    study_run: StudyRun, ready: Callable[[], Iterable[Trial]], *, jobs: int, report: OnProgress
) -> Iterator[dict[str, Any]]:
    """Yield results as trials finish; `jobs` of them run at a time and share the threads.

    Args:
        study_run: The study and how to run it.
        ready: What can be trained now, most urgent first. It is asked again after each result, which may make
            more trials ready; none left ends the iteration.
        jobs: Number of processes; with 1, trials run in this one.
        report: Called with the progress of all trials.
    """
    if jobs == 1:
        while trial := next(iter(ready()), None):
            yield run_trial(study_run, trial, report)
        return
    launch = study_run.launch
    shared = replace(study_run, launch=replace(launch, threads=max(1, launch.threads // jobs)))
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(_exit_with_parent)
    with manager, ProcessPoolExecutor(jobs, mp_context=context, initializer=_exit_with_parent) as pool:
        reports = manager.Queue()
        finished = Event()
        listener = Thread(target=_forward, args=(reports, report, finished), daemon=True)
        listener.start()
        running: dict[Future[dict[str, Any]], str] = {}
        try:
            while True:
                free = jobs - len(running)
                waiting = (trial for trial in ready() if trial.key not in running.values())
                for trial in list(islice(waiting, free)):
                    running[pool.submit(_run, shared, trial, reports)] = trial.key
                if not running:
                    return
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    del running[future]
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            finished.set()
            listener.join()


def _exit_with_parent() -> None:
    """End this process when its parent is killed: the command, started again, would do the same work beside it."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def _run(study_run: StudyRun, trial: Trial, reports: "Queue[StageProgress]") -> dict[str, Any]:
    return run_trial(study_run, trial, reports.put)


def _forward(reports: "Queue[StageProgress]", report: OnProgress, finished: Event) -> None:
    while not finished.is_set():
        try:
            report(reports.get(timeout=0.5))
        except Empty:
            continue
        except (EOFError, OSError):  # the manager has ended
            return
