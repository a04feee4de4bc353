"""Made-up entries of a leaderboard."""

from typing import Any

from hardrank.audit_app.entries.entry import AboutModel, LeaderboardEntry
from hardrank.audit_app.entries.making import make_entry
from hardrank.audit_app.results.schema import AuditReport, ModelEntry
from hardrank.audit_app.results.scores import figure_entry
from hardrank.models.card import Card
from hardrank.trainer.attacks.registry import SCORECARD, known_figures
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, ers
from tests.audit_app.reports import make_made_up, make_model, make_strong

ATTACKS: dict[str, dict[str, Any]] = {name: {} for name in SCORECARD} | {"GTM": {"unmatched": "reference"}}


def make_about(**changes: Any) -> AboutModel:
    values: dict[str, Any] = {
        "name": "HM[S,g_LGA]&ICS",
        "link": "https://arxiv.org/abs/2203.01439",
        "authors": ["Zhou, M.", "Patel, V."],
        "venue": "CVPR 2022",
        "architecture": "small-resnet, 64 px",
        "additional_data": False,
        "split": "test classes of demo",
    }
    return AboutModel.model_validate({**values, **changes})


def make_audited(name: str = "robust", *, shift: float = 0.0, strong: float = 38.0, **changes: Any) -> ModelEntry:
    """A model whose ten results make its ERS; `shift` moves each of their scores."""
    figures = {}
    for key in ERS_KEYS:
        kind = known_figures()[key]
        value = kind.attacked + (0.5 + shift / 100) * (kind.resisted - kind.attacked)
        figures[key] = figure_entry(
            kind,
            value=value,
            low=value - 0.01,
            high=value + 0.01,
            before=kind.resisted,
            noise=kind.resisted,
            score=50 + shift,
            success=50.0,
        )
    whole = ers({key: figure.value for key, figure in figures.items()})
    found = make_strong(ers=strong, ers_low=strong - 3, ers_high=strong + 3)
    return make_model(name, ers=whole, figures=figures, strong=found, worst_case_recall=20.0, **changes)


def make_audit(*models: ModelEntry, **settings: Any) -> AuditReport:
    return make_made_up(*(models or (make_audited(),)), **{"attacks": ATTACKS, **settings})


def make_measured_card(card: Card, *, gallery: int, **changes: Any) -> Card:
    """The card as training writes it where the strong ERS is measured."""
    model = make_audited()
    assert model.strong is not None
    scales = {"unit", "help", "attacked", "resisted"}
    robustness = {
        "figures": {key: figure.model_dump(exclude=scales) for key, figure in model.figures.items()},
        **model.model_dump(include={"ers", "ers_low", "ers_high", "worst_case_recall", "n", "mean_cosine"}),
        "checks": [],
        "gallery": gallery,
        "seeds": [3, 4],
        "options": {"norm": "linf", "epsilon": 8 / 255, "alpha": 3 / 255, "steps": 32},
        "attacks": ATTACKS,
        "strong": model.strong.model_dump(),
        **changes,
    }
    metrics = {"recall_at_1": 0.5, "mean_cosine": 0.1, "queries": float(gallery)}
    return card.model_copy(update={"robustness": robustness, "metrics": metrics})


def make_made_up_entry(
    *, about: dict[str, Any] | None = None, gallery: str = "0" * 64, **changes: Any
) -> LeaderboardEntry:
    """An entry that is admitted; `about` changes what the authors say, `changes` what was measured."""
    model = make_audited(**changes)
    entry = make_entry(make_audit(model), model, make_about(**(about or {})))
    return entry.model_copy(update={"gallery": entry.gallery.model_copy(update={"sha256": gallery})})
