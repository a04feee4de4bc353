"""Makes entries of a leaderboard from the report of an audit."""

import math
from typing import Final

from hardrank.audit_app.entries.entry import (
    AboutModel,
    AttackedEntry,
    CleanEntry,
    EntryError,
    GalleryIdentity,
    LeaderboardEntry,
    MeanEntry,
    ThreatModelEntry,
)
from hardrank.audit_app.results.schema import AuditReport, ModelEntry, StrongEntry

_Z: Final = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def make_entry(report: AuditReport, model: ModelEntry, about: AboutModel) -> LeaderboardEntry:
    """Make the entry of one model of an audit.

    Args:
        report: The report of the audit.
        model: One of its models.
        about: What its authors say about it.

    Raises:
        EntryError: The audit lacks something that an entry needs: retrieval, ERS, the strong ERS or MARGIN.
    """
    settings, gallery = report.settings, report.settings.gallery
    return LeaderboardEntry(
        about=about,
        model_sha256=model.sha256,
        defense=model.defense,
        threat_model=ThreatModelEntry(
            norm="l2" if settings.norm == "l2" else "linf",
            epsilon=settings.epsilon,
            alpha=settings.alpha,
            steps=settings.steps,
            knowledge=str(model.method["name"]),
            gtm=str(settings.attacks.get("GTM", {}).get("unmatched", "")),
        ),
        gallery=GalleryIdentity(name=gallery.name, sha256=gallery.sha256, items=gallery.items, classes=gallery.classes),
        clean=_clean(model),
        attacked=_attacked(model),
        unreliable=list(dict.fromkeys(check.kind for check in model.checks)),
        seed=settings.seed,
        command=report.command,
        versions=report.versions,
    )


def _clean(model: ModelEntry) -> CleanEntry:
    benign = model.benign
    if benign is None:
        raise EntryError(f"{model.name}: no class has two images, so an entry lacks Recall@1; give a labeled gallery")
    return CleanEntry(
        recall_at_1=wilson_interval(benign.recall_at_1, benign.queries),
        mean_cosine=benign.mean_cosine,
        queries=benign.queries,
    )


def _attacked(model: ModelEntry) -> AttackedEntry:
    strong, worst = model.strong, model.worst_case_recall
    if model.ers is None or strong is None or strong.ers is None or worst is None:
        raise EntryError(
            f"{model.name}: an entry needs ERS, the strong ERS and the worst case of Recall@1; audit with --attacks "
            "all, gradients and --strong-images 32 or more"
        )
    recall = wilson_interval(worst / 100, model.n)
    return AttackedEntry(
        n=model.n,
        ers=_mean(model.ers, model.ers_low, model.ers_high),
        figures={key: _mean(found.value, found.low, found.high) for key, found in model.figures.items()},
        strong_ers=_mean(strong.ers, strong.ers_low, strong.ers_high),
        strong_images=strong.n,
        worst_case_recall=_mean(100 * recall.value, 100 * recall.low, 100 * recall.high),
        strongest_attack=_strongest(strong),
        gradients_per_image=strong.gradients_per_image,
    )


def _mean(value: float, low: float | None, high: float | None) -> MeanEntry:
    return MeanEntry(value=value, low=value if low is None else low, high=value if high is None else high)


def _strongest(strong: StrongEntry) -> str:
    """Name the search: the worst of all attacks, and which of them found the most worst values first."""
    most = max(strong.settings, key=lambda setting: sum(setting.found.values()), default=None)
    count = len(strong.settings)
    text = f"worst of {count} attack{'' if count == 1 else 's'} for each image and result"
    return text if most is None else f"{text}; most found by {most.name}"


def wilson_interval(share: float, n: int) -> MeanEntry:
    """Return a share of `n` images, 0 to 1, with its 95 % interval (Wilson, 1927)."""
    center = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return MeanEntry(value=share, low=max(0.0, min(share, center - half)), high=min(1.0, max(share, center + half)))
