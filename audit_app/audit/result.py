"""The results of an audit, as Python objects; a report is made from them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.weak_spots import WeakClass, WeakQuery, clipped_scores
from hardrank.audit_app.audit.worst_cases import WorstCase
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.results.certificate_entries import CertificateEntry
from hardrank.audit_app.results.schema import WHITE_BOX, CurveEntry
from hardrank.audit_app.results.transform_entries import EditsEntry, SurvivalEntry
from hardrank.audit_app.subjects.subject import Subject
from hardrank.trainer.evaluation.retrieval import RetrievalMetrics
from hardrank.trainer.evaluation.scorecard import Scorecard, bootstrap_interval
from hardrank.trainer.evaluation.threats import ThreatResult


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """The results of one model."""

    embedded: EmbeddedGallery
    card: Scorecard
    benign: RetrievalMetrics | None
    """None if no class has two images."""
    method: dict[str, Any]
    """How it was attacked."""
    curves: tuple[CurveEntry, ...]
    worst_queries: tuple[WeakQuery, ...]
    worst_classes: tuple[WeakClass, ...]
    cases: tuple[WorstCase, ...]
    """The worst queries with their images and rankings."""
    edits: EditsEntry | None = None
    survival: SurvivalEntry | None = None
    """None unless the options request `transform_images`."""
    certificates: tuple[CertificateEntry, ...] = ()
    threats: tuple[ThreatResult, ...] = ()
    """What other threat models achieve; empty unless they were requested and the model gives gradients."""

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
    """Sentences for the report: what a time budget left out, and `gallery_warnings`."""


def overall_score(card: Scorecard, *, seed: int, resamples: int) -> tuple[float, float, float]:
    """Return ERS and its interval; if not all ten results were measured, the mean score of those that were."""
    if np.isfinite(card.ers):
        return card.ers, card.ers_low, card.ers_high
    scores = clipped_scores(card.per_image, card.scales).mean(axis=1, keepdims=True)
    low, high = bootstrap_interval(scores, seed=seed, resamples=resamples)
    return float(scores.mean()), float(low[0]), float(high[0])
