"""The steps of an audit: load the models, embed the gallery, attack; the same for the command and the pages."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hardrank.audit_app.audit.checking import check_audit
from hardrank.audit_app.audit.estimate import AuditEstimate, estimate_audit
from hardrank.audit_app.audit.request import REQUEST, AuditRequest, read_request
from hardrank.audit_app.audit.result import AuditResult
from hardrank.audit_app.audit.runner import run_audit
from hardrank.audit_app.audit.time_budget import BLACK_BOX_BUDGET_S, fit_to_budget, runs_searches
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_galleries, ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.subjects.loading import load_subject, load_subjects
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.attacks.runner import never_cancel


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedAudit:
    """An audit whose models are loaded and whose gallery is embedded; made by `prepare_audit`."""

    request: AuditRequest
    galleries: tuple[EmbeddedGallery, ...]
    """One for each model."""
    surrogate: Subject | None
    """The model that transfer attacks use."""
    estimate: AuditEstimate | None = None
    """How long it takes; None before `planned`."""

    @property
    def gallery(self) -> ImageGallery:
        """The images, without those that could not be read."""
        return self.galleries[0].gallery

    def planned(self, out: Path | None = None, *, default_budget: bool = False) -> "PreparedAudit":
        """Measure how long the audit takes, and reduce it to its time budget.

        An audit that continues in `out` keeps the numbers of images and queries that it began with.

        Args:
            out: The folder of the audit.
            default_budget: Whether a request without a time budget gets one of `BLACK_BOX_BUDGET_S` if a model is
                attacked by a black-box search with the default number of queries.
        """
        request = self.request
        check_audit(self.galleries, request.options, self.surrogate)
        by_default = default_budget and request.time_budget is None and "queries" not in request.options.search
        if by_default and runs_searches(self.galleries, request.options):
            request = replace(request, time_budget=BLACK_BOX_BUDGET_S)
        earlier = _earlier(out)
        if earlier is not None and earlier.requested == request.absolute():
            request = replace(request, options=earlier.options, full_options=earlier.full_options)
        estimate = estimate_audit(self.galleries, request.options, surrogate=self.surrogate)
        if request.time_budget is not None and request.full_options is None:
            fitted = fit_to_budget(estimate, request.time_budget)
            if fitted.options != request.options:
                request = replace(request, options=fitted.options, full_options=request.options)
            estimate = fitted
        return replace(self, request=request, estimate=estimate)

    def run(
        self,
        out: Path,
        *,
        overwrite: bool = False,
        on_progress: OnProgress = ignore_progress,
        cancel: Callable[[], bool] = never_cancel,
    ) -> AuditResult:
        """Attack, and keep the journal and the request in the folder `out`; see `run_audit`."""
        return run_audit(
            self.galleries,
            self.request.options,
            out,
            surrogate=self.surrogate,
            request=self.request,
            estimate=self.estimate,
            overwrite=overwrite,
            on_progress=on_progress,
            cancel=cancel,
        )


def prepare_audit(request: AuditRequest, *, on_progress: OnProgress = ignore_progress) -> PreparedAudit:
    """Load the models of a request and embed its gallery with each of them.

    Args:
        request: Models, gallery and options.
        on_progress: Called with the progress of each stage; an exception that it raises ends the preparation.

    Raises:
        AuditError: A model or the gallery cannot be used; other subclasses of `HardrankError` for damaged bundles,
            indexes and runs.
    """
    on_progress(StageProgress(stage="models", done=0, total=len(request.models)))
    subjects = load_subjects(request.models, request.loading)
    on_progress(StageProgress(stage="models", done=len(subjects), total=len(subjects)))
    surrogate = None if request.surrogate is None else load_subject(request.surrogate, request.loading)
    galleries = embed_galleries(subjects, request.gallery.open(), on_progress=on_progress)
    return PreparedAudit(request=request, galleries=tuple(galleries), surrogate=surrogate)


def _earlier(out: Path | None) -> AuditRequest | None:
    """Return the request of the audit in a folder; None if there is none that can be read."""
    if out is None or not (out / REQUEST).is_file():
        return None
    try:
        return read_request(out).absolute()
    except AuditError:  # of another version, or damaged: the audit that starts now writes its own
        return None
