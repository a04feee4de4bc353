"""The steps of an audit: load the models, embed the gallery, attack; the same for the command and the pages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.audit.runner import AuditResult, run_audit
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_galleries, ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.subjects.loading import Subject, load_subject, load_subjects
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

    @property
    def gallery(self) -> ImageGallery:
        """The images, without those that could not be read."""
        return self.galleries[0].gallery

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
    surrogate = None if request.surrogate is None else load_subject(request.surrogate, request.loading)
    galleries = embed_galleries(subjects, request.gallery.open(), on_progress=on_progress)
    return PreparedAudit(request=request, galleries=tuple(galleries), surrogate=surrogate)
