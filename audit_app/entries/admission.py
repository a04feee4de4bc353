"""The rules of the leaderboard: which entries it admits. Each rule is a sentence of the page and a check."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hardrank.audit_app.entries.entry import LeaderboardEntry, MeanEntry
from hardrank.audit_app.results.schema import WHITE_BOX
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, ers

LEAST_IMAGES: Final = 100
LEAST_STRONG: Final = 16
LEAST_STEPS: Final = 32
_ROUNDING: Final = 0.01


@dataclass(frozen=True)
class AdmissionRule:
    """A rule, and what is wrong with an entry that breaks it."""

    sentence: str
    problem: Callable[[LeaderboardEntry], str | None]
    """Returns None for an entry that keeps the rule."""


def _gradients(entry: LeaderboardEntry) -> str | None:
    knowledge = entry.threat_model.knowledge
    return None if knowledge == WHITE_BOX else f"it was attacked by {knowledge}, without gradients"


def _enough_images(entry: LeaderboardEntry) -> str | None:
    attacked, least = entry.attacked, min(LEAST_IMAGES, entry.gallery.items)
    if attacked.n < least:
        return f"{attacked.n} images were attacked; {least} are needed"
    if attacked.strong_images < LEAST_STRONG:
        return f"the strong ERS has {attacked.strong_images} images; {LEAST_STRONG} are needed"
    return None


def _enough_steps(entry: LeaderboardEntry) -> str | None:
    threat = entry.threat_model
    if threat.steps < LEAST_STEPS:
        return f"the attacks took {threat.steps} steps; {LEAST_STEPS} are needed"
    return None


def _adds_up(entry: LeaderboardEntry) -> str | None:
    figures, score = entry.attacked.figures, entry.attacked.ers.value
    if missing := [key for key in ERS_KEYS if key not in figures]:
        return f"the results {', '.join(missing)} are missing"
    whole = ers({key: figures[key].value for key in ERS_KEYS})
    return None if abs(whole - score) < _ROUNDING else f"ERS is {score:.2f}, but the mean of its ten scores {whole:.2f}"


def _intervals(entry: LeaderboardEntry) -> str | None:
    for name, mean, least, most in _means(entry):
        if not mean.low <= mean.value <= mean.high:
            return f"{name} is {mean.value:g}, outside its interval [{mean.low:g}, {mean.high:g}]"
        if not least <= mean.value <= most:
            return f"{name} is {mean.value:g}; it must be between {least:g} and {most:g}"
    return None


def _means(entry: LeaderboardEntry) -> Iterator[tuple[str, MeanEntry, float, float]]:
    """Yield the name, value and range of each mean."""
    attacked, infinity = entry.attacked, float("inf")
    yield "Recall@1", entry.benign.recall_at_1, 0, 1
    yield "worst-case Recall@1", attacked.worst_case_recall, 0, 100
    yield "ERS", attacked.ers, -infinity, 200
    yield "strong ERS", attacked.strong_ers, -infinity, 200
    for key, mean in attacked.figures.items():
        yield key, mean, -infinity, infinity


RULES: Final = (
    AdmissionRule(
        "The model was attacked with its gradients (white-box). Scores of attacks without gradients are upper bounds.",
        _gradients,
    ),
    AdmissionRule(
        f"At least {LEAST_IMAGES} images (or the whole gallery, if it is smaller) were attacked, and at least "
        f"{LEAST_STRONG} of them with the stronger attacks.",
        _enough_images,
    ),
    AdmissionRule(f"The attacks took at least {LEAST_STEPS} steps.", _enough_steps),
    AdmissionRule("All ten results are there, and ERS is the mean of their scores.", _adds_up),
    AdmissionRule("Each mean lies within its interval and its range.", _intervals),
)
"""What an admitted entry keeps, besides the schema."""

ACROSS: Final = (
    "Entries are compared only if gallery (SHA-256 over ids and classes), norm, ε and the target of GTM are the same; "
    "others get a table of their own.",
    "A model, by its SHA-256, has one entry in a table.",
    "A model that failed a sanity check is listed as unreliable, below the others: its score may come from hidden "
    "gradients, randomness or collapse.",
    "Whoever finds a stronger attack within the same budget may file a new entry of the same model; the lower score "
    "replaces the higher one.",
)
"""Rules about several entries."""


def refusal(entry: LeaderboardEntry) -> str | None:
    """Return the first rule that an entry breaks, in words; None if it is admitted."""
    return next((problem for rule in RULES if (problem := rule.problem(entry)) is not None), None)


Comparable = tuple[str, str, float, str]
"""Gallery hash, norm, ε, target of GTM."""


def comparable_key(entry: LeaderboardEntry) -> Comparable:
    """Return what must agree between entries of a table."""
    threat = entry.threat_model
    return entry.gallery.sha256, threat.norm, threat.epsilon, threat.gtm


def repeated(entries: Mapping[str, LeaderboardEntry]) -> dict[str, str]:
    """Return the files whose model has an entry with a lower strong ERS in the same table, and that entry's file."""
    best: dict[tuple[str, Comparable], str] = {}
    beaten: dict[str, str] = {}
    for file, entry in entries.items():
        key = (entry.model_sha256, comparable_key(entry))
        other = best.setdefault(key, file)
        if other == file:
            continue
        lower = entry.attacked.strong_ers.value < entries[other].attacked.strong_ers.value
        kept, left = (file, other) if lower else (other, file)
        best[key] = beaten[left] = kept
    return beaten
