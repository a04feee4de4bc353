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

from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter, SearchMethod
from hardrank.audit_app.audit.weak_spots import WeakClass, WeakQuery, clipped_scores, worst_classes, worst_queries
from hardrank.audit_app.audit.worst_cases import WorstCase, worst_case
from hardrank.audit_app.blackbox import make_search
from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.transfer import Transfer, transfer_from
from hardrank.audit_app.errors import AuditError, SceneError
from hardrank.audit_app.gallery.collection import Collection
from hardrank.audit_app.gallery.embedded import Scene, silent
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

    scene: Scene
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
        return self.scene.subject

    @property
    def queries(self) -> int | None:
        """Questions that a black-box attack asked about the images of the scorecard; None for gradients."""
        asked = [values.sum() for name, values in self.card.per_image.columns.items() if name.endswith(" queries")]
        return int(sum(asked)) if asked else None


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditResult:
    """What was found."""

    options: AuditOptions
    collection: Collection
    attacked: int
    """Images under attack."""
    surrogate: Subject | None
    models: tuple[ModelResult, ...]
    seconds: float
    """Of this sitting."""


def run_audit(
    scenes: Sequence[Scene],
    options: AuditOptions,
    out: Path,
    *,
    surrogate: Subject | None = None,
    report: OnProgress = silent,
    cancel: Callable[[], bool] = never,
) -> AuditResult:
    """Measure the model of each scene with the same attacks on the same images; see `make_scenes`.

    What is finished is kept in the folder `out`: a later call with the same arguments goes on from there, and gives
    the same result. Raises `AuditError` (and its subclasses) for what cannot be audited, `AttackError` for attacks
    that the gallery does not allow, `JournalError` where `out` holds another audit of a model, `CancelledError` when
    `cancel` says so.
    """
    began = time.monotonic()
    _check(scenes, options, surrogate)
    collection = scenes[0].collection
    rows = sample_queries(len(collection), options.attacked, seed=options.seed)
    methods = [_method(scene, options, surrogate, report) for scene in scenes]
    with _exclusive(out):
        models = []
        for scene, method in zip(scenes, methods, strict=True):
            _rehearse(scene, options, rows)
            part = _Part(scene, method, options, out / JOURNAL / _folder(scene), report, cancel)
            models.append(_measure(part, rows))
    return AuditResult(
        options=options,
        collection=collection,
        attacked=len(rows),
        surrogate=surrogate,
        models=tuple(models),
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Part:
    """The audit of one model."""

    scene: Scene
    method: Method | None
    options: AuditOptions
    journal: Path
    report: OnProgress
    cancel: Callable[[], bool]

    def score(
        self, rows: torch.Tensor, robustness: RobustnessOptions, method: Method | None, *, name: str, stage: str
    ) -> Scorecard:
        """Attack the gallery rows `rows` (n,); what is finished is kept under `name`."""
        subject, options = self.scene.subject, self.options

        def show(progress: EvaluationProgress) -> None:
            share = progress.inside.step / max(1, robustness.steps)
            if progress.inside.queries is not None and isinstance(method, Search):
                share = float(progress.inside.queries.max()) / method.queries
            block = min(options.batch, progress.queries - progress.queries_done)
            done = progress.queries_done + (progress.attacks_done + min(1.0, share)) / progress.attacks * block
            self.report(StageProgress(stage=stage, done=round(done), total=progress.queries))

        card = measure_robustness(
            subject.judge if method is not None else subject.gradients,
            self.scene.images,
            self.scene.embeddings,
            self.scene.labels,
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
        self.report(StageProgress(stage=stage, done=len(rows), total=len(rows)))
        return card


def _measure(part: _Part, rows: torch.Tensor) -> ModelResult:
    scene, options = part.scene, part.options
    name = scene.subject.name
    benign = _benign(scene, options.seed)
    card = part.score(rows, options.robustness, part.method, name="scorecard", stage=f"attacks on {name}")
    curves = tuple(_curve(part, rows, curve) for curve in options.curves if _applies(curve, part.method))
    weak = tuple(worst_queries(card, options.worst))
    cases = []
    for i, query in enumerate(weak, start=1):
        if part.cancel():
            raise CancelledError(
                "the audit was stopped; what was finished is kept, and the same one goes on from there"
            )
        cases.append(worst_case(scene, query, card, options, part.method))
        part.report(StageProgress(stage=f"worst cases of {name}", done=i, total=len(weak)))
    return ModelResult(
        scene=scene,
        card=card,
        benign=benign,
        method={"name": "white-box"} if part.method is None else part.method.describe(),
        curves=curves,
        worst_queries=weak,
        worst_classes=tuple(worst_classes(card, options.worst)),
        cases=tuple(cases),
    )


def _benign(scene: Scene, seed: int) -> RetrievalMetrics | None:
    try:
        return evaluate(scene.embeddings, scene.labels, seed=seed)
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
            stage=f"{part.scene.subject.name} {where}",
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
    score, low, high = overall(card, seed=options.seed, resamples=options.robustness.bootstrap)
    return CurvePoint(at=at, score=score, low=low, high=high)


def overall(card: Scorecard, *, seed: int, resamples: int) -> tuple[float, float, float]:
    """Give ERS and its interval; where not all ten results are there, the mean score of those that are."""
    if np.isfinite(card.ers):
        return card.ers, card.ers_low, card.ers_high
    scores = clipped_scores(card.per_image, card.scales).mean(axis=1, keepdims=True)
    low, high = bootstrap_interval(scores, seed=seed, resamples=resamples)
    return float(scores.mean()), float(low[0]), float(high[0])


def _method(scene: Scene, options: AuditOptions, surrogate: Subject | None, report: OnProgress) -> Method | None:
    """Choose how a model is attacked; None: by its gradients."""
    asked, subject = options.method, scene.subject
    if asked is SearchMethod.WHITE_BOX or (asked is SearchMethod.AUTO and subject.white_box):
        _ = subject.gradients  # raises, and names the model, where there are none
        return None
    if asked is SearchMethod.TRANSFER:
        assert surrogate is not None
        transfer: Transfer = transfer_from(surrogate, scene, report=report)
        return transfer
    return make_search(options.searched, **options.search)


def _check(scenes: Sequence[Scene], options: AuditOptions, surrogate: Subject | None) -> None:
    """Find mistakes before any work is done."""
    check_names_differ([scene.subject for scene in scenes])
    if any(scene.collection is not scenes[0].collection for scene in scenes):
        raise SceneError("the models were given different galleries, so they cannot be compared; use make_scenes")
    if (options.method is SearchMethod.TRANSFER) != (surrogate is not None):
        raise AuditError("a transfer attack needs a surrogate, a model with gradients; no other attack does")


def _rehearse(scene: Scene, options: AuditOptions, rows: torch.Tensor) -> None:
    """Let each attack draw its targets and look at one image: what the gallery does not allow is said at once."""
    victims = victims_in(scene.gallery, rows)
    for attack in options.build().values():
        try:
            targets = attack.draw(victims, scene.gallery, seed=options.seed)
            attack.objective(victims[:1], scene.gallery, targets[:1])
        except AttackError as error:
            raise AttackError(_advised(error, attack, scene)) from error


def _advised(error: AttackError, attack: Attack, scene: Scene) -> str:
    if scene.collection.labelled_classes > 1:
        return str(error)
    return (
        f"{error} (put each class's images into a folder of its own, or a column `label` in a CSV), or leave out the "
        "attacks that need classes: --attacks CA+ CA- QA+ QA- TMA ES GTT"
    )


def _folder(scene: Scene) -> str:
    """A folder for what is known of a model on a gallery; another model of the same name gets another."""
    subject = scene.subject
    known = f"{subject.sha256}{subject.preprocessing}{scene.collection.digest()}"
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
