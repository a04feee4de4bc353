"""Makes entries of a leaderboard: from the report of an audit, or from what training measured."""

from collections.abc import Mapping
from typing import Any

from scipy.stats import binomtest

from hardrank.audit_app.entries.entry import (
    AboutModel,
    AttackedEntry,
    BenignEntry,
    EntryError,
    GalleryIdentity,
    LeaderboardEntry,
    MeanEntry,
    ThreatModelEntry,
)
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.results.schema import WHITE_BOX, AuditReport, ModelEntry, StrongEntry
from hardrank.audit_app.results.scores import ModelScores, scores_of_card, scores_of_model
from hardrank.models.bundle import ONNX
from hardrank.models.card import Card


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
    if model.benign is None:
        raise EntryError(f"{model.name}: no class has two images, so an entry lacks Recall@1; give a labeled gallery")
    scores = scores_of_model(report, model)
    return LeaderboardEntry(
        about=about,
        model_sha256=model.sha256,
        defense=model.defense,
        threat_model=_threat_model(settings.model_dump(), settings.attacks, str(model.method["name"])),
        gallery=GalleryIdentity(name=gallery.name, sha256=gallery.sha256, items=gallery.items, classes=gallery.classes),
        benign=_benign(scores, model.benign.queries),
        attacked=_attacked(scores, "audit with --attacks all, gradients and --strong-images 32 or more"),
        unreliable=list(dict.fromkeys(check.kind for check in model.checks)),
        seed=settings.seed,
        command=report.command,
        versions=report.versions,
    )


def make_entry_of_card(card: Card, gallery: ImageGallery, about: AboutModel) -> LeaderboardEntry:
    """Make the entry of a bundle from its card, without another audit.

    Args:
        card: The card of a model that was trained with `evaluation.strong_images`.
        gallery: The test images of its training.
        about: What its authors say about it.

    Raises:
        EntryError: The card lacks something that an entry needs, or has measured another number of images.
    """
    scores, found = scores_of_card(card), card.robustness
    remedy = "train with --evaluation.strong-images 32, or audit it with --entry"
    if scores is None or found is None:
        raise EntryError(f"{card.name}: the card has no scorecard; {remedy}")
    if scores.gallery != len(gallery):
        raise EntryError(
            f"{card.name}: the card has measured {scores.gallery} images, and the gallery has {len(gallery)}; give the "
            "images that it was trained with"
        )
    return LeaderboardEntry(
        about=about,
        model_sha256=card.files[ONNX].sha256,
        defense=card.defense,
        threat_model=_threat_model(found["options"], found["attacks"], WHITE_BOX),
        gallery=GalleryIdentity(
            name=gallery.name, sha256=gallery.digest(), items=len(gallery), classes=gallery.labeled_classes
        ),
        benign=_benign(scores, int(card.metrics["queries"])),
        attacked=_attacked(scores, remedy),
        unreliable=list(dict.fromkeys(check.kind for check in scores.checks)),
        seed=found["seeds"][0],
        command=card.command,
        versions=card.versions,
    )


def _threat_model(
    budget: Mapping[str, Any], attacks: Mapping[str, Mapping[str, Any]], knowledge: str
) -> ThreatModelEntry:
    return ThreatModelEntry(
        norm="l2" if budget.get("norm") == "l2" else "linf",
        epsilon=budget["epsilon"],
        alpha=budget["alpha"],
        steps=budget["steps"],
        knowledge=knowledge,
        gtm=str(attacks.get("GTM", {}).get("unmatched", "")),
    )


def _benign(scores: ModelScores, queries: int) -> BenignEntry:
    return BenignEntry(
        recall_at_1=wilson_interval(scores.benign["recall_at_1"], queries),
        mean_cosine=scores.benign["mean_cosine"],
        queries=queries,
    )


def _attacked(scores: ModelScores, remedy: str) -> AttackedEntry:
    strong, worst = scores.strong, scores.worst_case_recall
    if not scores.complete or strong is None or strong.ers is None or worst is None:
        raise EntryError(f"{scores.name}: an entry needs ERS, the strong ERS and the worst case of Recall@1; {remedy}")
    recall = wilson_interval(worst / 100, scores.n)
    return AttackedEntry(
        n=scores.n,
        ers=_mean(scores.score, scores.low, scores.high),
        figures={key: _mean(found.value, found.low, found.high) for key, found in scores.figures.items()},
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
    found = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return MeanEntry(value=share, low=min(share, found.low), high=max(share, found.high))
