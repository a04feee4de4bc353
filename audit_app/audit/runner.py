"""An audit without a page: the scorecard of each model on one gallery, resumable, the same for the same seed."""

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

from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter
from hardrank.audit_app.audit.weak_spots import WeakClass, WeakQuery, clipped_scores, worst_classes, worst_queries
from hardrank.audit_app.audit.worst_cases import WorstCase, worst_case
from hardrank.audit_app.blackbox.choice import SearchMethod, choose_method
from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.transfer import Transfer, transfer_from
from hardrank.audit_app.errors import AuditError, GalleryError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.subjects.loading import Subject, check_names_differ
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.attacks.attack import Attack, victims_in
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.runner import Method, never
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.retrieval import RetrievalMetrics, evaluate
from hardrank.trainer.evaluation.robustness import (
    CancelledError,
    EvaluationProgress,
    RobustnessOptions,
    measure_robustness,
    sample_queries,
)
from hardrank.trainer.evaluation.scorecard import Scorecard, bootstrap_interval
from hardrank.trainer.metric.distances import RetrievalError

JOURNAL: Final = "journal"
_LOCK: Final = ".lock"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The score at one budget."""

    at: float
    score: float
    """ERS; the mean score of the figures measured where they are not all ten."""
    low: float
    high: float
    """Ends of the 95 % bootstrap interval."""


@dataclass(frozen=True, kw_only=True)
class CurveResult:
    """How the score depends on what the attacker may spend."""

    parameter: CurveParameter
    attacked: int
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """What was found of one model."""

    embedded: EmbeddedGallery
    card: Scorecard
    benign: RetrievalMetrics | None
    """None where no class has two images."""
    method: dict[str, Any]
    """How it was attacked."""
    curves: tuple[CurveResult, ...]
    worst_queries: tuple[WeakQuery, ...]
    worst_classes: tuple[WeakClass, ...]
    cases: tuple[WorstCase, ...]
    """The worst queries again, with what became of their rankings."""

    @property
    def subject(self) -> Subject:
        """The model."""
        return self.embedded.subject

    @property
    def queries(self) -> int | None:
        """Questions that a black-box attack asked about the images of the scorecard; None for gradients."""
        asked = [values.sum() for name, values in self.card.per_image.columns.items() if name.endswith(" queries")]
        return int(sum(asked)) if asked else None


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditResult:
    """What was found."""

    options: AuditOptions
    gallery: ImageGallery
    attacked: int
    """Images under attack."""
    surrogate: Subject | None
    models: tuple[ModelResult, ...]
    seconds: float
    """Of this sitting."""


def run_audit(
    galleries: Sequence[EmbeddedGallery],
    options: AuditOptions,
    out: Path,
    *,
    surrogate: Subject | None = None,
    on_progress: OnProgress = ignore_progress,
    cancel: Callable[[], bool] = never,
) -> AuditResult:
    """Measure the model of each gallery with the same attacks on the same images; see `embed_galleries`.

    What is finished is kept in the folder `out`: a later call with the same arguments goes on from there, and gives
    the same result. Raises `AuditError` (and its subclasses) for what cannot be audited, `AttackError` for attacks
    that the gallery does not allow, `JournalError` where `out` holds another audit of a model, `CancelledError` when
    `cancel` says so.
    """
    began = time.monotonic()
    _check(galleries, options, surrogate)
    gallery = galleries[0].gallery
    rows = sample_queries(len(gallery), options.attacked, seed=options.seed)
    methods = [_method(embedded, options, surrogate, on_progress) for embedded in galleries]
    with _exclusive(out):
        models = []
        for embedded, method in zip(galleries, methods, strict=True):
            _rehearse(embedded, options, rows)
            part = _Part(embedded, method, options, out / JOURNAL / _folder(embedded), on_progress, cancel)
            models.append(_measure(part, rows))
    return AuditResult(
        options=options,
        gallery=gallery,
        attacked=len(rows),
        surrogate=surrogate,
        models=tuple(models),
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Part:
    """The audit of one model."""

    embedded: EmbeddedGallery
    method: Method | None
    options: AuditOptions
    journal: Path
    on_progress: OnProgress
    cancel: Callable[[], bool]

    def score(
        self, rows: torch.Tensor, robustness: RobustnessOptions, method: Method | None, *, name: str, stage: str
    ) -> Scorecard:
        """Attack the gallery rows `rows` (n,); what is finished is kept under `name`."""
        subject, options = self.embedded.subject, self.options

        def show(progress: EvaluationProgress) -> None:
            share = progress.inside.step / max(1, robustness.steps)
            if progress.inside.queries is not None and isinstance(method, Search):
                share = float(progress.inside.queries.max()) / method.queries
            block = min(options.batch, progress.queries - progress.queries_done)
            done = progress.queries_done + (progress.attacks_done + min(1.0, share)) / progress.attacks * block
            self.on_progress(StageProgress(stage=stage, done=round(done), total=progress.queries))

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
        self.on_progress(StageProgress(stage=stage, done=len(rows), total=len(rows)))
        return card


def _measure(part: _Part, rows: torch.Tensor) -> ModelResult:
    embedded, options = part.embedded, part.options
    name = embedded.subject.name
    benign = _benign(embedded, options.seed)
    card = part.score(rows, options.robustness, part.method, name="scorecard", stage=f"attacks on {name}")
    curves = tuple(_curve(part, rows, curve) for curve in options.curves if _applies(curve, part.method))
    weak = tuple(worst_queries(card, options.worst))
    cases = []
    for i, query in enumerate(weak, start=1):
        if part.cancel():
            raise CancelledError(
                "the audit was stopped; what was finished is kept, and the same one goes on from there"
            )
        cases.append(worst_case(embedded, query, card, options, part.method))
        part.on_progress(StageProgress(stage=f"worst cases of {name}", done=i, total=len(weak)))
    return ModelResult(
        embedded=embedded,
        card=card,
        benign=benign,
        method={"name": "white-box"} if part.method is None else part.method.describe(),
        curves=curves,
        worst_queries=weak,
        worst_classes=tuple(worst_classes(card, options.worst)),
        cases=tuple(cases),
    )


def _benign(embedded: EmbeddedGallery, seed: int) -> RetrievalMetrics | None:
    try:
        return evaluate(embedded.embeddings, embedded.labels, seed=seed)
    except RetrievalError:  # no class has two images: there is nothing to retrieve, and the report says so
        return None


def _curve(part: _Part, rows: torch.Tensor, curve: Curve) -> CurveResult:
    """Measure a sample at each budget."""
    options = part.options
    sample = rows[sample_queries(len(rows), options.curve_attacked, seed=options.seed)]
    points = []
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
        )
        points.append(_point(value, card, options))
    return CurveResult(parameter=curve.parameter, attacked=len(sample), points=tuple(points))


def _at(
    parameter: CurveParameter, value: float, robustness: RobustnessOptions, method: Method | None
) -> tuple[RobustnessOptions, Method | None]:
    """Change one budget; the check with another seed is for the scorecard alone."""
    robustness = replace(robustness, seed_check=0)
    if parameter is CurveParameter.EPSILON:
        return replace(robustness, epsilon=value), method
    if parameter is CurveParameter.STEPS:
        return replace(robustness, steps=int(value)), method
    assert isinstance(method, Search)
    return robustness, replace(method, queries=int(value))


def _applies(curve: Curve, method: Method | None) -> bool:
    """Whether a model that is attacked by `method` has such a budget."""
    if curve.parameter is CurveParameter.STEPS:
        return not isinstance(method, Search)
    return curve.parameter is CurveParameter.EPSILON or isinstance(method, Search)


def _point(at: float, card: Scorecard, options: AuditOptions) -> CurvePoint:
    score, low, high = overall_score(card, seed=options.seed, resamples=options.robustness.bootstrap)
    return CurvePoint(at=at, score=score, low=low, high=high)


def overall_score(card: Scorecard, *, seed: int, resamples: int) -> tuple[float, float, float]:
    """Give ERS and its interval; where not all ten results are there, the mean score of those that are."""
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
        assert surrogate is not None  # `_check` refuses a transfer without one
        return transfer_from(surrogate, embedded, on_progress=on_progress)

    return choose_method(
        embedded.subject, options.method, norm=options.robustness.norm, search=options.search, transfer=transfer
    )


def _check(galleries: Sequence[EmbeddedGallery], options: AuditOptions, surrogate: Subject | None) -> None:
    """Find mistakes before any work is done."""
    check_names_differ([embedded.subject for embedded in galleries])
    if any(embedded.gallery is not galleries[0].gallery for embedded in galleries):
        raise GalleryError("the models were given different galleries, so they cannot be compared; use embed_galleries")
    if (options.method is SearchMethod.TRANSFER) != (surrogate is not None):
        raise AuditError("a transfer attack needs a surrogate, a model with gradients; no other attack does")


def _rehearse(embedded: EmbeddedGallery, options: AuditOptions, rows: torch.Tensor) -> None:
    """Let each attack draw its targets and look at one image: what the gallery does not allow is said at once."""
    victims = victims_in(embedded.tensors, rows)
    for attack in options.build().values():
        try:
            targets = attack.draw(victims, embedded.tensors, seed=options.seed)
            attack.objective(victims[:1], embedded.tensors, targets[:1])
        except AttackError as error:
            raise AttackError(_advised(error, attack, embedded)) from error


def _advised(error: AttackError, attack: Attack, embedded: EmbeddedGallery) -> str:
    if embedded.gallery.labelled_classes > 1:
        return str(error)
    return (
        f"{error} (put each class's images into a folder of its own, or a column `label` in a CSV), or leave out the "
        "attacks that need classes: --attacks CA+ CA- QA+ QA- TMA ES GTT"
    )


def _folder(embedded: EmbeddedGallery) -> str:
    """A folder for what is known of a model on a gallery; another model of the same name gets another."""
    subject = embedded.subject
    known = f"{subject.sha256}{subject.preprocessing}{embedded.gallery.digest()}"
    return f"{slug(subject.name)}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"


def slug(name: str) -> str:
    """Turn a model's name into part of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "model"


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """Keep other audits out of a folder; raises `AuditError` where one is at work, or it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / _LOCK, blocking=False)
        lock.acquire()
    except Timeout:
        raise AuditError(f"another audit is at work in {out}; wait for it, or name another folder") from None
    except OSError as error:
        raise AuditError(f"{out} cannot be written ({error.strerror or error}); name another folder") from error
    try:
        yield
    finally:
        lock.release()
