"""The verdict on a model: how far an attack got."""

import pytest

from hardrank.audit_app.live.verdict import verdict_of
from hardrank.trainer.attacks.attack import Figure


def figure(key: str, attacked: float, resisted: float) -> Figure:
    return Figure(key=key, unit="", help="", attacked=attacked, resisted=resisted)


RAISE = figure("QA+", 0.0, 50.0)
SHIFT, RECALL = figure("ES:D", 2.0, 0.0), figure("ES:R", 0.0, 100.0)


@pytest.mark.parametrize(
    ("after", "success", "fooled"), [(0.0, 100.0, True), (20.0, 50.0, True), (30.0, 25.0, False), (50.0, 0.0, False)]
)
def test_half_of_the_way_to_the_goal_fools(after: float, success: float, fooled: bool) -> None:
    found = verdict_of([RAISE], {"QA+": 40.0}, {"QA+": after})
    assert found.success == pytest.approx(success)
    assert found.fooled is fooled
    assert found.word == ("fooled" if fooled else "held")


def test_the_figure_in_which_the_attack_got_furthest_counts() -> None:
    found = verdict_of([SHIFT, RECALL], {"ES:D": 0.0, "ES:R": 100.0}, {"ES:D": 0.3, "ES:R": 0.0})
    assert found.success == 100


def test_an_attack_that_began_at_its_goal_has_no_success() -> None:
    found = verdict_of([RAISE], {"QA+": 0.0}, {"QA+": 0.0})
    assert found.success is None
    assert found.word == "already at the goal"
