"""The worst queries and classes of a made table."""

import numpy as np
import pytest

from hardrank.audit_app.audit.weak_spots import clipped_scores, worst_classes, worst_queries
from hardrank.trainer.attacks.attack import Figure
from hardrank.trainer.evaluation.scorecard import PerImage, Scorecard, summarize

FIGURES = {
    "A": Figure(key="A", unit="%", help="", attacked=0.0, resisted=100.0),
    "B": Figure(key="B", unit="", help="", attacked=2.0, resisted=0.0),
}


def card(a: list[float], b: list[float], labels: list[int]) -> Scorecard:
    columns = {"A": np.array(a), "B": np.array(b), "R@1": np.full(len(a), 100.0)}
    for key in ("A", "B"):
        columns |= {f"{key} before": columns[key], f"{key} noise": columns[key]}
    table = PerImage(rows=10 + np.arange(len(a)), labels=np.array(labels), columns=columns)
    summary = summarize(table, FIGURES, seed=0, resamples=2)
    return Scorecard(
        **vars(summary),
        mean_cosine=0.0,
        checks=(),
        gallery=99,
        seeds=(0,),
        options={},
        attacks={},
        passes=0,
        scales=FIGURES,
        per_image=table,
    )


def test_scores_are_clipped() -> None:
    found = clipped_scores(card([0, 50, 130], [2, 1, -1], [0, 0, 0]).per_image, FIGURES)
    np.testing.assert_allclose(found, [[0, 0], [50, 50], [100, 100]])


def test_worst_queries_come_first_and_tied_figures_take_turns() -> None:
    found = worst_queries(card([0, 80, 0, 10], [2, 0, 2, 2], [0, 1, 0, 1]), 3)
    assert [query.row for query in found] == [10, 12, 13]
    assert [query.score for query in found] == [0, 0, 5]
    assert [query.weakest for query in found] == ["A", "B", "B"]
    assert len(worst_queries(card([1, 2], [0, 0], [0, 0]), 9)) == 2
    assert worst_queries(card([1], [0], [0]), 0) == []


def test_worst_classes_have_at_least_two_images() -> None:
    found = worst_classes(card([0, 80, 40, 20, 100], [2, 0, 0, 2, 0], [7, 1, 1, 2, 2]), 5)
    assert [(one.label, one.rows) for one in found] == [(2, (13, 14)), (1, (12, 11))]
    assert found[0].score == pytest.approx((10 + 100) / 2)
    assert [one.label for one in worst_classes(card([50, 10], [0, 0], [4, 5]), 1)] == [5]
