"""A new attack takes a file and a line of the registry: everything else follows from its declaration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.drawing.score_panel import parts_table
from hardrank.audit_app.report.wording import threat_model
from hardrank.audit_app.results.scores import figure_entry, scores_of_report
from hardrank.trainer.attacks.attack import AttackedRole, Figure, Gallery, Victims, measure_recall, recall_figure
from hardrank.trainer.attacks.declaration import AttackKind, TargetChoice
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.attacks.pgd import Objective
from hardrank.trainer.attacks.registry import ATTACKS, make_attack
from hardrank.trainer.evaluation.robustness import RobustnessOptions, measure_robustness
from hardrank.trainer.metric.distances import nearest
from tests.audit_app.apptest import errors, markup, open_app, words
from tests.audit_app.reports import make_made_up, make_model
from tests.trainer.conftest import Small
from tests.trainer.conftest import small as small  # a fixture


@dataclass(frozen=True, kw_only=True)
class LeaveAverage(CheckedOptions):
    """The query leaves the average embedding of its nearest items."""

    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    items: int = option(2, minimum=1, unit="items", help="how many items are averaged")

    name: ClassVar[str] = "TOY"
    width: ClassVar[int] = 1

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (recall_figure("TOY"),)

    @property
    def target_count(self) -> int:
        return self.items

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        return nearest(victims.embeddings, gallery.embeddings, victims.own, self.items)

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> Objective:
        average = gallery.embeddings[targets].mean(1)

        def loss(embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
            return (embeddings[:, 0] * average[rows]).sum(1)

        return loss

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        return measure_recall(embeddings, victims, gallery)


TOY = AttackKind(
    name="TOY",
    title="the query leaves its nearest items",
    story="The image is changed so that it leaves {target}.",
    build=LeaveAverage,
    targets=TargetChoice(noun="landmark", count_option="items"),
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "TOY", TOY)


def test_it_is_measured_and_counts_towards_the_worst_recall(small: Small) -> None:
    card = measure_robustness(
        small.embed,
        lambda rows: small.images[rows],
        small.gallery.embeddings,
        small.gallery.labels,
        torch.arange(20),
        options=RobustnessOptions(steps=8, epsilon=48 / 255, alpha=8 / 255, bootstrap=20, seed_check=0),
        attacks={"TOY": make_attack("TOY", items=3)},
    )
    assert card.attacks == {"TOY": {"items": 3}}
    assert card.figures["TOY"].value < card.figures["TOY"].before
    assert card.worst_recall == pytest.approx(min(card.figures["TOY"].value, card.recall_at_1), abs=10)
    assert card.worst_recall < card.recall_at_1


def test_scorecard_table_and_report_say_what_it_wants() -> None:
    measured = make_model().figures["QA+"].model_dump(exclude={"unit", "help", "attacked", "resisted"})
    report = make_made_up(make_model(figures={"TOY": figure_entry(recall_figure("TOY"), **measured)}))
    assert TOY.title in parts_table(scores_of_report(report))
    said = threat_model(AuditOptions(attacks=("TOY", "CA+")), report.models, None)
    assert f"TOY: {TOY.title}" in " ".join(said)
    assert "candidate of CA+" in said[0]
    assert "CA+" not in threat_model(AuditOptions(attacks=("TOY",)), report.models, None)[0]


def test_the_live_page_offers_it_with_its_options_story_and_targets(app: Callable[..., None]) -> None:
    at = open_app()
    choice = at.selectbox(key="live.attack")
    assert f"TOY · {TOY.title}" in choice.options
    choice.set_value("TOY").run()
    assert not errors(at)
    assert TOY.story.format(target="one drawn from the seed") in markup(at)
    assert at.number_input(key="live.TOY.items").value == 2
    assert "`items`" in words(at)
    assert "landmark" in at.button(key="choose-targets").label
