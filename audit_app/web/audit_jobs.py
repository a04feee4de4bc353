"""Audits that run in the background, one at a time, and the finished ones."""

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from hardrank.audit_app.audit.request import REQUEST, AuditRequest, read_request
from hardrank.audit_app.audit.sequence import prepare_audit
from hardrank.audit_app.errors import INTERNAL_ERROR, AuditError
from hardrank.audit_app.report.files import write_report
from hardrank.audit_app.results.schema import REPORT, AuditReport, ReportError, read_report
from hardrank.models.cores import usable_cores
from hardrank.models.errors import HardrankError
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.evaluation.blocks import CancelledError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AuditJob:
    """The state of the running audit, or of the last one; immutable."""

    folder: Path
    request: AuditRequest
    progress: StageProgress | None = None
    error: str = ""
    """Why it failed; empty otherwise."""
    stopped: bool = False
    """Whether it was stopped; it can be resumed."""
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class PastAudit:
    """The folder of an audit: finished, or one that can be resumed."""

    folder: Path
    when: datetime
    request: AuditRequest | None
    """None if it does not exist or cannot be read."""
    report: AuditReport | None
    """None if the audit was not finished."""
    error: str = ""
    """Why its files cannot be read; empty otherwise."""

    @property
    def title(self) -> str:
        """A line that distinguishes it from other audits."""
        day = f"{self.when:%Y-%m-%d %H:%M}"
        if self.report is None:
            return f"{day} · {self.folder.name} · {'damaged' if self.error else 'not finished'}"
        names = ", ".join(model.name for model in self.report.models)
        settings = self.report.settings
        budget = f"{settings.epsilon:g} (L2)" if settings.norm == "l2" else f"{255 * settings.epsilon:g}/255"
        return f"{day} · {names} · {settings.attacked} images, ε {budget}"


class AuditJobs:
    """Runs audits into subfolders of `root`, and finds them in those of `others` too. Thread-safe."""

    def __init__(self, root: Path, *others: Path) -> None:
        self.root, self._others = root, others
        self._lock = threading.Lock()
        self._job: AuditJob | None = None
        self._cancel = threading.Event()

    @property
    def job(self) -> AuditJob | None:
        """The running audit, or the last one since the app was started."""
        return self._job

    @property
    def running(self) -> bool:
        """Whether an audit is running."""
        job = self._job
        return job is not None and not job.done

    def start(self, request: AuditRequest, folder: Path | None = None) -> Path:
        """Start an audit, or resume the one in `folder`; raises `AuditError` while another is running."""
        folder = folder or self.root / request.name
        with self._lock:
            if self.running:
                raise AuditError("another audit is running; wait until it ends, or stop it and resume it later")
            self._cancel = threading.Event()
            self._job = AuditJob(folder=folder, request=request)
        threading.Thread(target=self._run, args=(request, folder, self._cancel), name="audit", daemon=True).start()
        return folder

    def stop(self) -> None:
        """Stop the running audit; finished work is kept, and the same request resumes from there."""
        self._cancel.set()

    def finished_audits(self) -> list[PastAudit]:
        """List the audits in `root` and `others`, the newest first."""
        paths = [path for root in (self.root, *self._others) for path in root.glob("*")]
        found = [_past_audit(path) for path in paths if path.is_dir() and _is_audit(path)]
        return sorted(found, key=lambda one: one.when, reverse=True)

    def _run(self, request: AuditRequest, folder: Path, cancel: threading.Event) -> None:
        def on_progress(progress: StageProgress) -> None:
            self._put(AuditJob(folder=folder, request=request, progress=progress))
            if cancel.is_set():
                raise CancelledError("the audit was stopped")

        message, stopped = "", False
        try:
            self._audit(request, folder, cancel, on_progress)
        except CancelledError:
            stopped = True
        except HardrankError as error:
            message = str(error)
        except Exception:
            _logger.exception("an audit failed")
            message = INTERNAL_ERROR
        self._put(AuditJob(folder=folder, request=request, error=message, stopped=stopped, done=True))

    def _put(self, job: AuditJob) -> None:
        with self._lock:
            self._job = job

    def _audit(self, request: AuditRequest, folder: Path, cancel: threading.Event, on_progress: OnProgress) -> None:
        torch.set_num_threads(usable_cores())  # of this thread; live attacks use fewer
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AuditError(
                f"{folder} cannot be written ({error.strerror or error}); set another folder with --audits"
            ) from error
        request.write(folder)
        # A folder belongs to one request: other results in it are of models or images that have changed since.
        audit = prepare_audit(request, on_progress=on_progress).planned()
        result = audit.run(folder, overwrite=True, on_progress=on_progress, cancel=cancel.is_set)
        write_report(result, folder, command="hardrank app", on_progress=on_progress)


def _is_audit(folder: Path) -> bool:
    return (folder / REPORT).is_file() or (folder / REQUEST).is_file()


def _past_audit(folder: Path) -> PastAudit:
    changed = max((folder / name).stat().st_mtime for name in (REPORT, REQUEST) if (folder / name).is_file())
    request, report, message = None, None, ""
    try:
        if (folder / REQUEST).is_file():
            request = read_request(folder)
    except AuditError as error:
        message = str(error)
    try:
        if (folder / REPORT).is_file():
            report = read_report(folder)
    except ReportError as error:
        message = str(error)
    when = datetime.fromtimestamp(changed, tz=UTC) if report is None else report.created
    return PastAudit(folder=folder, when=when, request=request, report=report, error=message)
