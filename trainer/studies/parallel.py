"""Runs trials of a study one after another, or several at a time in processes of their own."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing.managers import SyncManager
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.studies.trial import StudyRun, run_trial
from hardrank.trainer.studies.trial_list import Trial


def run_trials(
    study_run: StudyRun, trials: Sequence[Trial], *, jobs: int, report: OnProgress
) -> Iterator[dict[str, Any]]:
    """Yield results as trials finish; `jobs` of them run at a time and share the threads."""
    if jobs == 1:
        yield from (run_trial(study_run, trial, report) for trial in trials)
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
        futures: list[Future[dict[str, Any]]] = [pool.submit(_run, shared, trial, reports) for trial in trials]
        try:
            for future in as_completed(futures):
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
