"""The attacks and measurements of an audit: the scorecard of each model on one gallery, resumable and reproducible."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hardrank.audit_app.audit.certified_recall import measure_certificates
from hardrank.audit_app.audit.chance import chance_warning
from hardrank.audit_app.audit.checking import check_audit
from hardrank.audit_app.audit.curves import measure_curves
from hardrank.audit_app.audit.edit_stability import measure_edits
from hardrank.audit_app.audit.estimate import AuditEstimate, AuditPart
from hardrank.audit_app.audit.folder import journal_name, lock_folder
from hardrank.audit_app.audit.identity import JOURNAL, claim_folder, identity_of, settings_of
from hardrank.audit_app.audit.model_audit import ModelAudit
from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.progress import AuditProgress
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.audit.result import AuditResult, ModelResult
from hardrank.audit_app.audit.seen_classes import seen_warning
from hardrank.audit_app.audit.threats import measure_model_threats
from hardrank.audit_app.audit.time_budget import describe_reduction
from hardrank.audit_app.audit.transform_survival import measure_survival
from hardrank.audit_app.audit.weak_spots import worst_classes, worst_queries
from hardrank.audit_app.audit.worst_cases import worst_case
from hardrank.audit_app.blackbox.choice import choose_method
from hardrank.audit_app.blackbox.transfer import transfer_from
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.results.certificate_entries import CertificateEntry
from hardrank.audit_app.results.schema import WHITE_BOX
from hardrank.audit_app.results.transform_entries import EditsEntry, SurvivalEntry
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.progress import OnProgress
from hardrank.trainer.attacks.runner import Method, never_cancel
from hardrank.trainer.evaluation.blocks import cancelled
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.retrieval import RetrievalMetrics, evaluate
from hardrank.trainer.evaluation.robustness import sample_queries
from hardrank.trainer.evaluation.scorecard import Scorecard
from hardrank.trainer.metric.distances import RetrievalError


def run_audit(
    galleries: Sequence[EmbeddedGallery],
    options: AuditOptions,
    out: Path,
    *,
    surrogate: Subject | None = None,
    request: AuditRequest | None = None,
    estimate: AuditEstimate | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
    cancel: Callable[[], bool] = never_cancel,
) -> AuditResult:
    """Measure several models with the same attacks on the same images.

    Finished parts are kept in the folder `out`: a later call with the same arguments continues from there, and gives
    the same result.

    Args:
        galleries: One gallery, embedded by each model; see `embed_galleries`.
        options: Options of the audit.
        out: Folder of the journal.
        surrogate: The model whose gradients transfer attacks use.
        request: Written to `out`, so that the audit app can find the models and images.
        estimate: With it, progress reports state the share of the whole audit that is done, and the time left.
        overwrite: Whether to delete the results of another audit in `out`.
        on_progress: Called with the progress of each stage.
        cancel: Whether to stop; checked after each batch.

    Raises:
        AuditError: The galleries differ, the surrogate is missing, or another audit is running in `out`.
        AttackError: The gallery does not allow an attack.
        OtherAuditError: `out` contains another audit, and `overwrite` is false.
        CancelledError: `cancel` returned True.
    """
    began = time.monotonic()
    check_audit(galleries, options, surrogate)
    gallery = galleries[0].gallery
    rows = sample_queries(len(gallery), options.attacked, seed=options.seed)
    settings = settings_of(options, gallery, attacked=len(rows), surrogate=surrogate)
    identity = identity_of(settings, [embedded.subject for embedded in galleries])
    methods = [_method(embedded, options, surrogate, on_progress) for embedded in galleries]
    with lock_folder(out):
        claim_folder(out, identity, overwrite=overwrite)
        if request is not None:
            request.absolute().write(out)
        models = []
        progress = AuditProgress(on_progress, estimate)
        for embedded, method in zip(galleries, methods, strict=True):
            part = ModelAudit(embedded, method, options, out / JOURNAL / journal_name(embedded), progress, cancel)
            models.append(_measure(part, rows))
    return AuditResult(
        options=options,
        gallery=gallery,
        attacked=len(rows),
        surrogate=surrogate,
        models=tuple(models),
        seconds=time.monotonic() - began,
        cautions=(*_reductions(request, gallery), *gallery_warnings(galleries)),
    )


def gallery_warnings(galleries: Sequence[EmbeddedGallery]) -> list[str]:
    """Return what makes the scores on a gallery less telling, known before the attacks."""
    found = [warning(one) for one in galleries for warning in (seen_warning, chance_warning)]
    return [text for text in found if text is not None]


def _reductions(request: AuditRequest | None, gallery: ImageGallery) -> tuple[str, ...]:
    if request is None or request.full_options is None or request.time_budget is None:
        return ()
    return describe_reduction(request.full_options, request.options, request.time_budget, items=len(gallery))


def _measure(part: ModelAudit, rows: torch.Tensor) -> ModelResult:
    embedded, options = part.embedded, part.options
    name = embedded.subject.name
    part.report(AuditPart.ATTACKS, f"retrieval of {name}", 0, 1)
    benign = _benign(embedded, options.seed)
    part.report(AuditPart.ATTACKS, f"retrieval of {name}", 1, 1, 0)
    card = part.score(rows, options.robustness, part.method, name="scorecard", stage=f"attacks on {name}")
    part.report(AuditPart.CHECKS, f"checks of {name}", 1, 1)
    curves = measure_curves(part, rows)
    edits, survival = _transforms(part, rows, card)
    certificates = _certificates(part, rows)
    threats = measure_model_threats(part, rows)
    weak = tuple(worst_queries(card, options.worst))
    cases = []
    for i, query in enumerate(weak, start=1):
        if part.cancel():
            raise cancelled()
        cases.append(worst_case(part, query, card))
        part.report(AuditPart.WORST_CASES, f"worst cases of {name}", i, len(weak))
    return ModelResult(
        embedded=embedded,
        card=card,
        benign=benign,
        method={"name": WHITE_BOX} if part.method is None else part.method.describe(),
        curves=curves,
        worst_queries=weak,
        worst_classes=tuple(worst_classes(card, options.worst)),
        cases=tuple(cases),
        edits=edits,
        survival=survival,
        certificates=certificates,
        threats=threats,
    )


def _transforms(
    part: ModelAudit, rows: torch.Tensor, card: Scorecard
) -> tuple[EditsEntry | None, SurvivalEntry | None]:
    """Measure edits, and the survival of attacks through transforms, on a sample of the attacked images."""
    options, embedded = part.options, part.embedded
    if not options.transform_images:
        return None, None
    sample = rows[sample_queries(len(rows), options.transform_images, seed=options.seed)]

    def edited(done: int) -> None:
        part.report(AuditPart.TRANSFORMS, f"edits on {embedded.subject.name}", done, len(sample), 0.0)

    edits = measure_edits(
        embedded,
        sample,
        seed=options.seed,
        resamples=options.robustness.bootstrap,
        journal=Journal(part.journal / "edits"),
        report=edited,
        cancel=part.cancel,
    )
    return edits, measure_survival(part, sample, card)


def _certificates(part: ModelAudit, rows: torch.Tensor) -> tuple[CertificateEntry, ...]:
    """Certify Recall@1 on a sample of the attacked images."""
    options, name = part.options, part.embedded.subject.name
    if options.certificates is None:
        return ()
    sample = rows[sample_queries(len(rows), options.certificates.images, seed=options.seed)]
    total = len(sample) * len(options.certificates.sigmas)

    def certified(done: int) -> None:
        part.report(AuditPart.CERTIFICATES, f"certificates of {name}", done, total)

    return measure_certificates(
        part.embedded,
        sample,
        options.certificates,
        seed=options.seed,
        batch=options.batch,
        resamples=options.robustness.bootstrap,
        journal=lambda folder: Journal(part.journal / folder),
        report=certified,
        cancel=part.cancel,
    )


def _benign(embedded: EmbeddedGallery, seed: int) -> RetrievalMetrics | None:
    try:
        return evaluate(embedded.embeddings, embedded.labels, seed=seed)
    except RetrievalError:  # no class has two images, which the report mentions
        return None


def _method(
    embedded: EmbeddedGallery, options: AuditOptions, surrogate: Subject | None, on_progress: OnProgress
) -> Method | None:
    """Choose how a model is attacked; None: white-box."""
    if surrogate is not None:  # exactly if the method is a transfer attack; see `check_audit`
        return transfer_from(surrogate, embedded, on_progress=on_progress)
    return choose_method(embedded.subject, options.method, norm=options.robustness.norm, search=options.search)
