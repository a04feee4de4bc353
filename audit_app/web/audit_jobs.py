"""Audits in the background: one at a time, with its progress; those of the past."""

import logging
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from hardrank.audit_app.audit.request import REQUEST, AuditRequest, read_request
from hardrank.audit_app.audit.sequence import prepare_audit
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.report.build import JSON, write_report
from hardrank.audit_app.results.schema import AuditReport, ReportError, read_report
from hardrank.audit_app.web.background_cache import UNFORESEEN
from hardrank.models.errors import HardrankError
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.evaluation.robustness import CancelledError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Running:
    """An audit under way, or the last one; never changes."""

    folder: Path
    request: AuditRequest
    progress: StageProgress | None = None
    """The stage under way."""
    problem: str = ""
    """Why it ended without a report."""
    over: bool = False


@dataclass(frozen=True, kw_only=True)
class Past:
    """An audit of the past: finished, or one that can go on."""

    folder: Path
    when: datetime
    request: AuditRequest | None
    """None: it is not there, or cannot be read."""
    report: AuditReport | None
    """None: it did not come to its end."""
    problem: str = ""
    """Why its report cannot be shown."""

    @property
    def title(self) -> str:
        """A line that tells it from the others."""
        day = f"{self.when:%Y-%m-%d %H:%M}"
        if self.report is None:
            return f"{day} · {self.folder.name} · {'damaged' if self.problem else 'not finished'}"
        names = ", ".join(model.name for model in self.report.models)
        asked = self.report.settings
        budget = f"{asked.epsilon:g} (L2)" if asked.norm == "l2" else f"{255 * asked.epsilon:g}/255"
        return f"{day} · {names} · {asked.attacked} images, ε {budget}"


class AuditDesk:
    """Runs audits into folders of `root`. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._running: Running | None = None
        self._cancel = threading.Event()

    @property
    def running(self) -> Running | None:
        """The audit under way, or the last one since the app was started."""
        return self._running

    def start(self, request: AuditRequest, folder: Path | None = None) -> Path:
        """Begin an audit, or go on with the one in `folder`; raises `AuditError` while another is under way."""
        folder = folder or self.root / request.name
        with self._lock:
            if self._running is not None and not self._running.over:
                raise AuditError("another audit is under way: wait for its end, or stop it; it can go on later")
            self._cancel = threading.Event()
            self._running = Running(folder=folder, request=request)
        threading.Thread(target=self._run, args=(request, folder, self._cancel), name="audit", daemon=True).start()
        return folder

    def stop(self) -> None:
        """End the audit under way; what is finished is kept, and the same request goes on from there."""
        self._cancel.set()

    def past(self) -> list[Past]:
        """List the audits of the folder, the newest first."""
        found = [_past(path) for path in self.root.glob("*") if path.is_dir() and _is_audit(path)]
        return sorted(found, key=lambda one: one.when, reverse=True)

    def _run(self, request: AuditRequest, folder: Path, cancel: threading.Event) -> None:
        def report(progress: StageProgress) -> None:
            self._put(Running(folder=folder, request=request, progress=progress))
            if cancel.is_set():
                raise CancelledError("the audit was stopped")

        problem = ""
        try:
            self._audit(request, folder, cancel, report)
        except CancelledError:
            problem = "the audit was stopped; what was finished is kept, and it can go on"
        except HardrankError as error:
            problem = str(error)
        except Exception:
            _logger.exception("an audit failed")
            problem = UNFORESEEN
        self._put(Running(folder=folder, request=request, problem=problem, over=True))

    def _put(self, running: Running) -> None:
        with self._lock:
            self._running = running

    def _audit(self, request: AuditRequest, folder: Path, cancel: threading.Event, report: OnProgress) -> None:
        torch.set_num_threads(os.cpu_count() or 1)  # of this thread; live attacks take fewer
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AuditError(f"{folder} cannot be written ({error.strerror or error}); choose --audits") from error
        request.write(folder)
        result = prepare_audit(request, on_progress=report).run(folder, on_progress=report, cancel=cancel.is_set)
        write_report(result, folder, command="streamlit run audit_app/app.py")


def _is_audit(folder: Path) -> bool:
    return (folder / JSON).is_file() or (folder / REQUEST).is_file()


def _past(folder: Path) -> Past:
    newest = max((folder / name for name in (JSON, REQUEST) if (folder / name).is_file()), key=_changed)
    request, report, problem = None, None, ""
    try:
        if (folder / REQUEST).is_file():
            request = read_request(folder)
    except AuditError as error:
        problem = str(error)
    try:
        if (folder / JSON).is_file():
            report = read_report(folder)
    except ReportError as error:
        problem = str(error)
    when = datetime.fromtimestamp(_changed(newest), tz=UTC) if report is None else report.created
    return Past(folder=folder, when=when, request=request, report=report, problem=problem)


def _changed(path: Path) -> float:
    return path.stat().st_mtime
