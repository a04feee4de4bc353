"""The attacks and measurements of an audit: the scorecard of each model on one gallery, resumable and reproducible."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import FileLock, Timeout

from hardrank.audit_app.audit.chance import chance_warning
from hardrank.audit_app.audit.estimate import AuditEstimate, AuditPart, describe_reduction
from hardrank.audit_app.audit.identity import JOURNAL, claim_folder, identity_of, settings_of
from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter
from hardrank.audit_app.audit.progress import AuditProgress
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.audit.weak_spots import WeakClass, WeakQuery, clipped_scores, worst_classes, worst_queries
from hardrank.audit_app.audit.worst_cases import WorstCase, worst_case
from hardrank.audit_app.blackbox.choice import SearchMethod, choose_method
from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.transfer import Transfer, transfer_from
from hardrank.audit_app.errors import AuditError, GalleryError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.results.schema import WHITE_BOX
from hardrank.audit_app.subjects.loading import Subject, check_names_differ
from hardrank.models.progress import OnProgress
from hardrank.trainer.attacks.attack import Attack, victims_in
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.runner import Method, never_cancel
from hardrank.trainer.evaluation.blocks import CancelledError, EvaluationPhase, EvaluationProgress
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.retrieval import RetrievalMetrics, evaluate
from hardrank.trainer.evaluation.robustness import RobustnessOptions, measure_robustness, sample_queries
from hardrank.trainer.evaluation.scorecard import Scorecard, bootstrap_interval
from hardrank.trainer.metric.distances import RetrievalError

_LOCK: Final = ".lock"
_CHECK_PHASES: Final = (EvaluationPhase.SANITY, EvaluationPhase.OTHER_SEED)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The score at one budget."""

    at: float
    score: float
    """ERS; the mean score of the measured figures if not all ten results were measured."""
    low: float
    high: float
    """Ends of the 95 % bootstrap interval."""


@dataclass(frozen=True, kw_only=True)
class CurveResult:
    """The score as a function of a budget."""

    parameter: CurveParameter
    attacked: int
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """The results of one model."""

    embedded: EmbeddedGallery
    card: Scorecard
    benign: RetrievalMetrics | None
    """None if no class has two images."""
    method: dict[str, Any]
    """How it was attacked."""
    curves: tuple[CurveResult, ...]
    worst_queries: tuple[WeakQuery, ...]
    worst_classes: tuple[WeakClass, ...]
    cases: tuple[WorstCase, ...]
    """The worst queries with their images and rankings."""

    @property
    def subject(self) -> Subject:
        """The model."""
        return self.embedded.subject

    @property
    def upper_bound(self) -> bool:
        """Whether the scores are upper bounds, since the attacks had no gradients."""
        return bool(self.method["name"] != WHITE_BOX)

    @property
    def queries(self) -> int | None:
        """Number of queries of black-box attacks for the scorecard; None for white-box."""
        asked = [values.sum() for name, values in self.card.per_image.columns.items() if name.endswith(" queries")]
        return int(sum(asked)) if asked else None


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditResult:
    """The results of an audit."""

    options: AuditOptions
    gallery: ImageGallery
    attacked: int
    """Number of attacked images."""
    surrogate: Subject | None
    models: tuple[ModelResult, ...]
    seconds: float
    """Duration of this run."""
    cautions: tuple[str, ...] = ()
    """Sentences for the report: what a time budget left out, and models that retrieve no better than chance."""


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
    with _exclusive(out):
        claim_folder(out, identity, overwrite=overwrite)
        if request is not None:
            request.absolute().write(out)
        models = []
        progress = AuditProgress(on_progress, estimate)
        for embedded, method in zip(galleries, methods, strict=True):
            part = _ModelAudit(embedded, method, options, out / JOURNAL / _folder(embedded), progress, cancel)
            models.append(_measure(part, rows))
    return AuditResult(
        options=options,
        gallery=gallery,
        attacked=len(rows),
        surrogate=surrogate,
        models=tuple(models),
        seconds=time.monotonic() - began,
        cautions=(*_reductions(request, gallery), *filter(None, map(chance_warning, galleries))),
    )


def _reductions(request: AuditRequest | None, gallery: ImageGallery) -> tuple[str, ...]:
    if request is None or request.full_options is None or request.time_budget is None:
        return ()
    return describe_reduction(request.full_options, request.options, request.time_budget, items=len(gallery))


@dataclass(frozen=True)
class _ModelAudit:
    """The audit of one model."""

    embedded: EmbeddedGallery
    method: Method | None
    options: AuditOptions
    journal: Path
    progress: AuditProgress
    cancel: Callable[[], bool]

    def report(self, part: AuditPart, stage: str, done: int, total: int, share: float | None = None) -> None:
        """Report the progress of a stage; see `AuditProgress.report`."""
        self.progress.report(self.embedded.subject.name, part, stage, done, total, share)

    def score(
        self,
        rows: torch.Tensor,
        robustness: RobustnessOptions,
        method: Method | None,
        *,
        name: str,
        stage: str,
        part: AuditPart = AuditPart.ATTACKS,
        place: tuple[int, int] = (0, 1),
    ) -> Scorecard:
        """Attack the gallery rows `rows` (n,); what is finished is kept under `name`.

        `place` is the number of this scorecard among those of the part, and how many there are.
        """
        subject, options = self.embedded.subject, self.options

        def show(progress: EvaluationProgress) -> None:
            done = _queries_done(progress, options, robustness.steps, method)
            share = done / progress.queries
            if progress.phase is EvaluationPhase.ATTACKS:
                self.report(part, stage, round(done), progress.queries, (place[0] + share) / place[1])
            elif progress.phase is EvaluationPhase.STRONG:
                self.report(AuditPart.STRONG, f"stronger {stage}", round(done), progress.queries, share)
            else:
                share = _CHECK_PHASES.index(progress.phase) + share
                self.report(
                    AuditPart.CHECKS,
                    f"{progress.phase} on {subject.name}",
                    round(done),
                    progress.queries,
                    share / len(_CHECK_PHASES),
                )

        card = measure_robustness(
            subject.judge if method is not None else subject.gradients,
            self.embedded.images,
            self.embedded.embeddings,
            self.embedded.labels,
            rows.to(subject.device),
            options=robustness,
            attacks=options.build(),
            seed=options.seed,
            batch=options.batch,
            judge=subject.judge,
            method=method,
            progress=show,
            cancel=self.cancel,
            resume=Journal(self.journal / name),
        )
        self.report(part, stage, len(rows), len(rows), (place[0] + 1) / place[1])
        return card


def _queries_done(progress: EvaluationProgress, options: AuditOptions, steps: int, method: Method | None) -> float:
    """Return how many queries' worth of a phase is done."""
    inside = progress.inside
    if inside is None:
        return progress.queries_done
    share = inside.step / max(1, steps)
    if inside.queries is not None and isinstance(method, Search):
        share = float(inside.queries.max()) / method.queries
    block = min(options.batch, progress.queries - progress.queries_done)
    return progress.queries_done + (progress.attacks_done + min(1.0, share)) / progress.attacks * block


def _measure(part: _ModelAudit, rows: torch.Tensor) -> ModelResult:
    embedded, options = part.embedded, part.options
    name = embedded.subject.name
    part.report(AuditPart.ATTACKS, f"retrieval of {name}", 0, 1)
    benign = _benign(embedded, options.seed)
    part.report(AuditPart.ATTACKS, f"retrieval of {name}", 1, 1, 0)
    card = part.score(rows, options.robustness, part.method, name="scorecard", stage=f"attacks on {name}")
    part.report(AuditPart.CHECKS, f"checks of {name}", 1, 1)
    curves = _curves(part, rows)
    weak = tuple(worst_queries(card, options.worst))
    cases = []
    for i, query in enumerate(weak, start=1):
        if part.cancel():
            raise CancelledError(
                "the audit was stopped; finished parts are kept, and the same audit continues from there"
            )
        cases.append(worst_case(embedded, query, card, options, part.method))
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
    )


def _benign(embedded: EmbeddedGallery, seed: int) -> RetrievalMetrics | None:
    try:
        return evaluate(embedded.embeddings, embedded.labels, seed=seed)
    except RetrievalError:  # no class has two images, which the report mentions
        return None


def _curves(part: _ModelAudit, rows: torch.Tensor) -> tuple[CurveResult, ...]:
    """Measure the requested curves that apply to the method."""
    curves = [curve for curve in part.options.curves if _applies(curve, part.method)]
    total = sum(len(curve.values) for curve in curves)
    found: list[CurveResult] = []
    for curve in curves:
        found.append(_curve(part, rows, curve, (sum(len(one.points) for one in found), total)))
    return tuple(found)


def _curve(part: _ModelAudit, rows: torch.Tensor, curve: Curve, place: tuple[int, int]) -> CurveResult:
    """Measure a sample at each budget; `place` is the number of its first point among the points of all curves."""
    options = part.options
    sample = rows[sample_queries(len(rows), options.curve_attacked, seed=options.seed)]
    points: list[CurvePoint] = []
    for value in curve.values:
        robustness, method = _at(curve.parameter, value, options.robustness, part.method)
        shown = f"{255 * value:g}/255" if curve.parameter is CurveParameter.EPSILON else f"{value:g}"
        where = f"{curve.parameter} {shown}"
        card = part.score(
            sample,
            robustness,
            method,
            name=f"{curve.parameter} {value:.9g}",
            stage=f"{part.embedded.subject.name} {where}",
            part=AuditPart.CURVES,
            place=(place[0] + len(points), place[1]),
        )
        points.append(_point(value, card, options))
    return CurveResult(parameter=curve.parameter, attacked=len(sample), points=tuple(points))


def _at(
    parameter: CurveParameter, value: float, robustness: RobustnessOptions, method: Method | None
) -> tuple[RobustnessOptions, Method | None]:
    """Change one budget. The other seed, the sanity runs and the stronger attacks are only for the scorecard."""
    robustness = replace(robustness, seed_check=0, sanity_images=0, strong_images=0)
    if parameter is CurveParameter.EPSILON:
        return replace(robustness, epsilon=value), method
    if parameter is CurveParameter.STEPS:
        return replace(robustness, steps=int(value)), method
    assert isinstance(method, Search)
    return robustness, replace(method, queries=int(value))


def _applies(curve: Curve, method: Method | None) -> bool:
    """Whether `method` has the curve's parameter."""
    if curve.parameter is CurveParameter.STEPS:
        return not isinstance(method, Search)
    return curve.parameter is CurveParameter.EPSILON or isinstance(method, Search)


def _point(at: float, card: Scorecard, options: AuditOptions) -> CurvePoint:
    score, low, high = overall_score(card, seed=options.seed, resamples=options.robustness.bootstrap)
    return CurvePoint(at=at, score=score, low=low, high=high)


def overall_score(card: Scorecard, *, seed: int, resamples: int) -> tuple[float, float, float]:
    """Return ERS and its interval; if not all ten results were measured, the mean score of those that were."""
    if np.isfinite(card.ers):
        return card.ers, card.ers_low, card.ers_high
    scores = clipped_scores(card.per_image, card.scales).mean(axis=1, keepdims=True)
    low, high = bootstrap_interval(scores, seed=seed, resamples=resamples)
    return float(scores.mean()), float(low[0]), float(high[0])


def _method(
    embedded: EmbeddedGallery, options: AuditOptions, surrogate: Subject | None, on_progress: OnProgress
) -> Method | None:
    """Choose how a model is attacked; None: white-box."""

    def transfer() -> Transfer:
        assert surrogate is not None  # `check_audit` refuses a transfer without one
        return transfer_from(surrogate, embedded, on_progress=on_progress)

    return choose_method(
        embedded.subject, options.method, norm=options.robustness.norm, search=options.search, transfer=transfer
    )


def check_audit(galleries: Sequence[EmbeddedGallery], options: AuditOptions, surrogate: Subject | None) -> None:
    """Check an audit before any work is done, and before it occupies a folder.

    Raises:
        AuditError: The galleries differ, or the surrogate is missing.
        AttackError: The gallery does not allow an attack.
    """
    check_names_differ([embedded.subject for embedded in galleries])
    if any(embedded.gallery is not galleries[0].gallery for embedded in galleries):
        raise GalleryError("the models were given different galleries, so they cannot be compared; use embed_galleries")
    if (options.method is SearchMethod.TRANSFER) != (surrogate is not None):
        raise AuditError("a transfer attack needs a surrogate, a model with gradients; no other attack does")
    rows = sample_queries(len(galleries[0]), options.attacked, seed=options.seed)
    for embedded in galleries:
        _check_attacks(embedded, options, rows)


def _check_attacks(embedded: EmbeddedGallery, options: AuditOptions, rows: torch.Tensor) -> None:
    """Draw targets and compute one loss of each attack, so that attacks that the gallery does not allow fail early."""
    victims = victims_in(embedded.tensors, rows)
    for attack in options.build().values():
        try:
            targets = attack.draw(victims, embedded.tensors, seed=options.seed)
            attack.objective(victims[:1], embedded.tensors, targets[:1])
        except AttackError as error:
            raise AttackError(_with_advice(error, attack, embedded)) from error


def _with_advice(error: AttackError, attack: Attack, embedded: EmbeddedGallery) -> str:
    if embedded.gallery.labelled_classes > 1:
        return str(error)
    return (
        f"{error} (put each class's images into a folder of its own, or a column `label` in a CSV), or leave out the "
        "attacks that need classes: --attacks CA+ CA- QA+ QA- TMA ES GTT"
    )


def _folder(embedded: EmbeddedGallery) -> str:
    """Name of the journal's folder for a model and gallery; another model with the same name gets another."""
    subject = embedded.subject
    identity = f"{subject.sha256}{subject.preprocessing}{embedded.gallery.digest()}"
    return f"{slug(subject.name)}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def slug(name: str) -> str:
    """Turn a model's name into part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "model"


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """Lock a folder; raises `AuditError` if another audit is running in it, or it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / _LOCK, blocking=False)
        lock.acquire()
    except Timeout:
        raise AuditError(f"another audit is running in {out}; wait until it ends, or choose another folder") from None
    except OSError as error:
        raise AuditError(f"{out} cannot be written ({error.strerror or error}); choose another folder") from error
    try:
        yield
    finally:
        lock.release()
