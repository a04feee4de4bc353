"""Calibration compared with a naive loop, and its false-alarm rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from hardrank.serving.agreement.calibration import (
    Calibration,
    CalibrationError,
    CalibrationOptions,
    DisagreementLevel,
    calibrate,
    shared_overlap,
)
from hardrank.serving.agreement.rbo import rank_biased_overlap
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import Item, Match
from tests.serving.agreement.rankings import untied
from tests.serving.conftest import unit_vectors

Vectors = npt.NDArray[np.float32]


def item(id_: str) -> Item:
    return Item(row=0, id=id_, label=None, metadata_json=b"{}", width=0, height=0)


@dataclass
class NaiveIndex:
    """Stands in for a `SearchIndex`: loops over a dictionary."""

    stored: dict[str, Vectors]

    def list_items(self) -> list[Item]:
        return [item(id_) for id_ in self.stored]

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        return {id_: row for row, id_ in enumerate(self.stored) if id_ in ids}

    def vectors(self, ids: Sequence[str]) -> Vectors:
        return np.stack([self.stored[id_] for id_ in ids])

    def search(self, queries: Vectors, k: int, *, exclude: Sequence[str | None] = ()) -> list[list[Match]]:
        answers = []
        for query, own in zip(queries, exclude, strict=True):
            scores = {id_: float(vector @ query) for id_, vector in self.stored.items() if id_ != own}
            assert 1 <= k <= len(scores)
            best = sorted(scores, key=lambda id_: -scores[id_])[:k]
            answers.append([Match(item(id_), scores[id_], rank) for rank, id_ in enumerate(best, start=1)])
        return answers


def pair(count: int = 60, *, noise: float = 0.3) -> tuple[NaiveIndex, NaiveIndex]:
    """Two indexes of the same items, by models that differ by noise."""
    first = unit_vectors(count, 6, seed=1)
    second = first + noise * unit_vectors(count, 6, seed=2)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    names = [f"i{row}" for row in range(count)]
    return NaiveIndex(dict(zip(names, first, strict=True))), NaiveIndex(dict(zip(names, second, strict=True)))


def calibrated(first: NaiveIndex, second: NaiveIndex, **options: Any) -> Calibration:
    return calibrate(cast(SearchIndex, first), cast(SearchIndex, second), options=CalibrationOptions(**options))


def test_calibration_equals_a_loop_over_all_items() -> None:
    first, second = pair()
    found = calibrated(first, second, depth=10, sample=1000, persistence=0.8)
    expected = []
    for id_ in first.stored:
        orders = []
        for index in (first, second):
            others = [other for other in index.stored if other != id_]
            others.sort(key=lambda other: -float(index.stored[other] @ index.stored[id_]))
            orders.append(untied(others[:10]))
        expected.append(rank_biased_overlap(orders[0], orders[1], persistence=0.8))
    assert found.overlaps.tolist() == pytest.approx(sorted(expected), abs=1e-12)
    assert found.depth == 10


def test_calibration_depends_only_on_galleries_and_seed() -> None:
    first, second = pair(200)
    reordered = NaiveIndex(dict(reversed(list(first.stored.items()))))
    found = calibrated(first, second, sample=40)
    assert len(found.overlaps) == 40
    assert np.array_equal(found.overlaps, calibrated(reordered, second, sample=40).overlaps)
    assert not np.array_equal(found.overlaps, calibrated(first, second, sample=40, seed=1).overlaps)


def test_compares_only_items_in_both_indexes() -> None:
    first, second = pair(80)
    for row in range(20):
        first.stored[f"first{row}"] = unit_vectors(1, 6, seed=100 + row)[0]
        second.stored[f"second{row}"] = unit_vectors(1, 6, seed=200 + row)[0]
    found = calibrated(first, second, depth=30, sample=1000)
    assert len(found.overlaps) == 80
    query = unit_vectors(1, 6, seed=9)
    answers = [index.search(query, 30, exclude=[None])[0] for index in (first, second)]
    value = shared_overlap(answers[0], answers[1], cast(SearchIndex, first), cast(SearchIndex, second), persistence=0.9)
    kept = [[result.item.id for result in answer if result.item.id.startswith("i")] for answer in answers]
    assert value == pytest.approx(rank_biased_overlap(untied(kept[0]), untied(kept[1]), persistence=0.9), abs=1e-15)


def test_depth_is_limited_by_the_gallery() -> None:
    first, second = pair(25)
    assert calibrated(first, second, depth=50).depth == 24


def test_rejects_galleries_that_share_too_few_items() -> None:
    first, second = pair(19)
    with pytest.raises(CalibrationError, match="19"):
        calibrated(first, second)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"persistence": 1.0}, "persistence"),
        ({"persistence": float("nan")}, "persistence"),
        ({"depth": 0}, "depth"),
        ({"sample": 5}, "sample"),
        ({"unusual": 0.01, "suspicious": 0.05}, "false-alarm"),
        ({"suspicious": 0.0}, "false-alarm"),
        ({"unusual": 1.0}, "false-alarm"),
    ],
)
def test_rejects_options_out_of_range(options: dict[str, float], cause: str) -> None:
    with pytest.raises(CalibrationError, match=cause):
        CalibrationOptions(**options)  # type: ignore[arg-type]


def uniform_calibration(count: int = 999) -> Calibration:
    return Calibration(overlaps=np.linspace(0, 1, count), depth=50, options=CalibrationOptions())


@pytest.mark.parametrize(
    ("rbo", "percentile", "level"),
    [
        (-1e-9, 0.1, DisagreementLevel.SUSPICIOUS),
        (8.5 / 998, 1.0, DisagreementLevel.SUSPICIOUS),
        (9.5 / 998, 1.1, DisagreementLevel.UNUSUAL),
        (48.5 / 998, 5.0, DisagreementLevel.UNUSUAL),
        (49.5 / 998, 5.1, DisagreementLevel.USUAL),
        (1.0, 100.0, DisagreementLevel.USUAL),
    ],
)
def test_levels_begin_at_their_false_alarm_rates(rbo: float, percentile: float, level: DisagreementLevel) -> None:
    found = uniform_calibration().rate(rbo)
    assert found.percentile == pytest.approx(percentile)
    assert found.level is level
    assert f"{rbo:.2f}".replace("-0.00", "0.00") in found.text.replace("-0.00", "0.00")
    assert found.text.startswith({DisagreementLevel.USUAL: "Nothing unusual"}.get(level, level.value.capitalize()))
    assert found.to_dict()["level"] == level.value


def test_models_that_agree_little_on_every_image_are_told_apart_from_a_usual_image() -> None:
    little = Calibration(overlaps=np.linspace(0, 0.6, 999), depth=50, options=CalibrationOptions())
    found = little.rate(0.26)
    assert found.level is DisagreementLevel.USUAL
    assert not found.telling
    assert "agree little on any image" in found.text
    assert "0.30" in found.text
    assert set(found.to_dict()) == {"rbo", "percentile", "level", "text"}
    assert little.rate(0.0).telling
    assert little.rate(0.55).telling
    assert uniform_calibration().rate(0.6).telling


def test_a_sample_too_small_for_a_rate_never_reaches_its_level() -> None:
    small = Calibration(overlaps=np.linspace(0.2, 1, 50), depth=10, options=CalibrationOptions())
    assert small.rate(0.0).level is DisagreementLevel.UNUSUAL
    tiny = Calibration(overlaps=np.linspace(0.2, 1, 15), depth=10, options=CalibrationOptions())
    assert tiny.rate(0.0).level is DisagreementLevel.USUAL


@pytest.mark.parametrize("count", [25, 100, 500])
def test_false_alarms_stay_within_their_rate(count: int) -> None:
    # Overlaps from a discrete, skewed distribution, in which ties would break a naive percentile.
    random = np.random.default_rng(count)
    alarms = {DisagreementLevel.UNUSUAL: 0, DisagreementLevel.SUSPICIOUS: 0, DisagreementLevel.USUAL: 0}
    trials = 4000
    for _ in range(trials):
        values = np.round(random.beta(2, 5, size=count + 1), 2)
        calibration = Calibration(overlaps=np.sort(values[1:]), depth=10, options=CalibrationOptions())
        alarms[calibration.rate(float(values[0])).level] += 1
    slack = 3 * np.sqrt(0.05 * 0.95 / trials)
    assert (alarms[DisagreementLevel.UNUSUAL] + alarms[DisagreementLevel.SUSPICIOUS]) / trials <= 0.05 + slack
    assert alarms[DisagreementLevel.SUSPICIOUS] / trials <= 0.01 + slack
