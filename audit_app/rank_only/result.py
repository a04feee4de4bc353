"""The result of an attack by ids alone, as JSON; it grows block by block, and a run continues from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import ValidationError

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.results.strict import StrictModel
from hardrank.trainer.evaluation.scorecard import bootstrap_interval

SCHEMA: Final = "hardrank.rank-only/1"
_RESAMPLES: Final = 1000


class ImageEntry(StrictModel):
    """One attacked image."""

    id: str
    targets: tuple[str, ...]
    before: float
    """The figure of the benign image."""
    after: float
    hidden_before: bool
    """Whether a target was outside the list that was measured; the rank is then at least the value."""
    hidden_after: bool
    queries: int
    """Files sent for it, lists of gallery images included. Measuring the result is not counted."""
    lists: int
    """How many of them were gallery images."""
    loss_before: float
    loss_after: float
    losses: dict[int, float]
    """Loss by number of queries."""


class SummaryEntry(StrictModel):
    """All images together."""

    images: int
    median_before: float
    median_after: float
    mean_before: float
    mean_after: float
    mean_after_low: float
    """End of the 95 % bootstrap interval."""
    mean_after_high: float
    hidden_after: int
    """Images of which a target stayed outside the measured list."""
    mean_queries: float
    most_queries: int


class RankOnlyResult(StrictModel):
    """The file."""

    schema_version: Literal["hardrank.rank-only/1"] = SCHEMA
    command: str
    system: dict[str, Any]
    settings: dict[str, Any]
    figure: str
    """What `before` and `after` are."""
    finished: bool
    unknown_ids: tuple[str, ...]
    """Some ids that the system returned and the gallery lacks."""
    images: tuple[ImageEntry, ...]
    summary: SummaryEntry | None


def summarize(images: tuple[ImageEntry, ...], *, seed: int) -> SummaryEntry | None:
    """Summarize the images; None without any."""
    if not images:
        return None
    before, after = np.array([one.before for one in images]), np.array([one.after for one in images])
    low, high = bootstrap_interval(after[:, None], seed=seed, resamples=_RESAMPLES)
    return SummaryEntry(
        images=len(images),
        median_before=float(np.median(before)),
        median_after=float(np.median(after)),
        mean_before=float(before.mean()),
        mean_after=float(after.mean()),
        mean_after_low=float(low[0]),
        mean_after_high=float(high[0]),
        hidden_after=sum(one.hidden_after for one in images),
        mean_queries=float(np.mean([one.queries for one in images])),
        most_queries=max(one.queries for one in images),
    )


def read_result(path: Path) -> RankOnlyResult:
    """Read a file; raises `AuditError` if it is not one."""
    try:
        return RankOnlyResult.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise AuditError(f"{path} is not a result of this command ({str(error)[:200]}); use another file") from error


def earlier_result(path: Path, system: Mapping[str, Any], settings: Mapping[str, Any]) -> RankOnlyResult | None:
    """Return what a run has written so far; None if there is no file.

    Raises:
        AuditError: The file belongs to another system or other settings. A server may have moved to another address.
    """
    if not path.exists():
        return None
    known = read_result(path)
    old, new = known.settings, json.loads(json.dumps(settings))
    differing = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if {**known.system, "url": ""} != {**json.loads(json.dumps(system)), "url": ""}:
        differing.append("system")
    if differing:
        raise AuditError(
            f"{path} belongs to another run: {', '.join(differing)} differ; use another file, or delete it"
        )
    return known
