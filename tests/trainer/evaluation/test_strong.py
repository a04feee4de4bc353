"""The strong score: never above the protocol's, reproducible, resumable, shared by processes, with its cost."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.evaluation.blocks import CancelledError, EvaluationPhase, EvaluationProgress
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, Scorecard, StrongScore, ers
from tests.trainer.conftest import Small
from tests.trainer.evaluation import measuring
from tests.trainer.evaluation.measuring import EVERY_TENTH

OPTIONS = RobustnessOptions(
    steps=4, epsilon=12 / 255, alpha=4 / 255, bootstrap=50, seed_check=0, sanity_images=0, strong_images=6
)


measure = partial(measuring.measure, options=OPTIONS, queries=EVERY_TENTH)
measure_few = partial(measure, names=("CA+", "TMA", "LTM"))
"""With few attacks, for what does not depend on which they are."""


@pytest.fixture(scope="module")
def card(small_robust: Small) -> Scorecard:
    return measure(small_robust)


@pytest.fixture(scope="module")
def strong(card: Scorecard) -> StrongScore:
    assert card.strong is not None
    return card.strong


@pytest.fixture(scope="module")
def few(small_robust: Small) -> Scorecard:
    return measure_few(small_robust)


def alike(one: StrongScore | None, other: StrongScore | None) -> bool:
    """Whether two scores agree in all but their duration."""
    return one is not None and other is not None and replace(one, seconds=0.0) == replace(other, seconds=0.0)


def test_each_image_and_result_counts_with_its_worst_attack(card: Scorecard, strong: StrongScore) -> None:
    columns, sample = card.per_image.columns, ~np.isnan(card.per_image.columns["TMA strong"])
    assert sample.sum() == strong.n == 6
    for key, figure in card.scales.items():
        ours, published = (columns[name][sample] for name in (f"{key} strong", key))
        scores = [figure.score(torch.from_numpy(values)) for values in (ours, published)]
        assert (scores[0] <= scores[1] + 1e-6).all()
        assert strong.figures[key].value == pytest.approx(ours.mean())
        assert strong.figures[key].protocol == pytest.approx(published.mean())
    assert strong.ers == pytest.approx(ers({key: strong.figures[key].value for key in ERS_KEYS}))
    assert strong.protocol_ers == pytest.approx(ers({key: strong.figures[key].protocol for key in ERS_KEYS}))
    assert strong.ers < strong.protocol_ers - 3
    assert strong.ers_low <= strong.ers <= strong.ers_high


def test_recall_counts_with_every_attack_on_it(card: Scorecard, strong: StrongScore) -> None:
    columns, sample = card.per_image.columns, ~np.isnan(card.per_image.columns["TMA strong"])
    recalls = [columns[f"{key} strong"][sample] for key in ("ES:R", "LTM", "GTM", "MARGIN")]
    for column in recalls[1:]:
        np.testing.assert_array_equal(column, recalls[0])
    published = [columns[key][sample] for key in ("R@1", "ES:R", "LTM", "GTM", "MARGIN")]
    assert (recalls[0] <= np.min(published, axis=0)).all()
    assert strong.worst_case_recall == pytest.approx(recalls[0].mean())
    assert strong.worst_case_recall <= np.min(published, axis=0).mean()


def test_the_record_says_what_found_the_worst_values_and_at_which_cost(card: Scorecard, strong: StrongScore) -> None:
    for key in card.scales:
        assert sum(setting.found.get(key, 0) for setting in strong.settings) == strong.n
    assert strong.gradients_per_image == pytest.approx(sum(one.gradients for one in strong.settings) / strong.n)
    assert strong.seconds > 0
    names = [one.name for one in strong.settings]
    assert "LTM (own copy excluded), APGD, 7 steps" in names
    assert "GTM (unmatched nearest), APGD, 7 steps" in names
    assert "MARGIN (targets 10), APGD, 14 steps" in names
    assert card.passes > sum(one.gradients for one in strong.settings)
    json.dumps(card.to_dict())


def test_finished_images_are_left_alone(small: Small) -> None:
    strong = measure(small, options=replace(OPTIONS, epsilon=64 / 255, alpha=16 / 255, steps=8)).strong
    assert strong is not None
    assert strong.worst_case_recall == 0
    for one in strong.settings:
        if one.name.startswith(("MARGIN", "LTM", "GTM")):
            assert one.images == one.gradients == 0, one


def test_more_restarts_find_no_less(small_robust: Small, strong: StrongScore) -> None:
    more = measure(small_robust, options=replace(OPTIONS, strong_restarts=2)).strong
    assert more is not None
    assert more.ers <= strong.ers + 1e-6
    assert more.gradients_per_image > strong.gradients_per_image


def test_the_batch_does_not_matter(small_robust: Small, few: Scorecard) -> None:
    parts = measure_few(small_robust, batch=4).strong
    assert few.strong is not None
    assert parts is not None
    for key, figure in few.strong.figures.items():
        assert parts.figures[key].value == pytest.approx(figure.value, abs=1e-6)


def test_it_resumes_and_ends_alike(small_robust: Small, few: Scorecard, tmp_path: Path) -> None:
    def stop_in_strong(seen: EvaluationProgress) -> None:
        if seen.phase is EvaluationPhase.STRONG and seen.queries_done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_few(small_robust, batch=4, resume=Journal(tmp_path), progress=stop_in_strong)
    assert len(list(tmp_path.glob("strong*.npz"))) == 1
    seen: list[EvaluationProgress] = []
    whole = measure_few(small_robust, batch=4, resume=Journal(tmp_path), progress=seen.append)
    assert {one.queries_done for one in seen} == {4}
    again = measure_few(
        small_robust, batch=4, resume=Journal(tmp_path), progress=lambda _: pytest.fail("attacked again")
    )
    assert again.to_dict() == whole.to_dict()
    for key, figure in few.figures.items():
        assert whole.figures[key].value == pytest.approx(figure.value, abs=1e-6)


def test_it_can_be_added_to_a_finished_evaluation(small_robust: Small, card: Scorecard, tmp_path: Path) -> None:
    assert measure(small_robust, options=replace(OPTIONS, strong_images=0), resume=Journal(tmp_path)).strong is None
    later = measure(small_robust, resume=Journal(tmp_path))
    assert alike(later.strong, card.strong)


def test_cancelling_it_keeps_nothing_half_done(small_robust: Small, tmp_path: Path) -> None:
    seen: list[EvaluationProgress] = []
    with pytest.raises(CancelledError):
        measure_few(
            small_robust,
            resume=Journal(tmp_path),
            progress=seen.append,
            cancel=lambda: bool(seen) and seen[-1].phase is EvaluationPhase.STRONG,
        )
    assert not list(tmp_path.glob("strong*.npz"))


def test_some_attacks_alone_have_figures_but_no_score(small_robust: Small) -> None:
    strong = measure(small_robust, names=("ES", "GTT")).strong
    assert strong is not None
    assert np.isnan(strong.ers)
    assert np.isnan(strong.worst_case_recall)
    assert set(strong.figures) == {"ES:D", "ES:R", "GTT"}
    assert measure(small_robust, names=("TMA",)).strong is not None


def test_a_sample_larger_than_the_queries_is_all_of_them(small_robust: Small) -> None:
    strong = measure(small_robust, options=replace(OPTIONS, strong_images=500), names=("TMA",)).strong
    assert strong is not None
    assert strong.n == 20


def test_invalid_options_are_refused() -> None:
    with pytest.raises(AttackError, match="strong_images"):
        RobustnessOptions(strong_images=-1)
    with pytest.raises(AttackError, match="strong_restarts"):
        RobustnessOptions(strong_restarts=0)
