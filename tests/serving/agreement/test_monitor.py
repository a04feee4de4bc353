"""The monitor calibrates when needed, and reports nothing while the usual agreement is unknown."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hardrank.serving.agreement.calibration import CalibrationOptions, DisagreementLevel
from hardrank.serving.agreement.monitor import AgreementMonitor, monitor_for
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from tests.serving.conftest import make_manifest, new_items, unit_vectors

OPTIONS = CalibrationOptions(sample=20, depth=10)


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, SearchIndex]:
    """Two indexes with the same forty vectors."""
    made = {key: SearchIndex.create(tmp_path / key, manifest=make_manifest()) for key in ("one", "other")}
    for index in made.values():
        index.add(new_items(unit_vectors(40)))
    return made


def test_no_comparison_before_the_first_calibration(pair: dict[str, SearchIndex]) -> None:
    monitor = AgreementMonitor(pair, OPTIONS)
    before, stale = monitor.comparison, monitor.stale
    monitor.calibrate()
    after = monitor.comparison
    assert before is None
    assert stale
    assert not monitor.stale
    assert after is not None
    assert after.depth("one") == 10


def test_equal_rankings_are_usual_and_different_ones_rate_lower(pair: dict[str, SearchIndex]) -> None:
    monitor = AgreementMonitor(pair, OPTIONS)
    monitor.calibrate()
    comparison = monitor.comparison
    assert comparison is not None
    query, other_query = unit_vectors(1, seed=5), unit_vectors(1, seed=6)
    first = pair["one"].search(query, 10)[0]
    same = comparison.disagreement({"one": first, "other": pair["other"].search(query, 10)[0]})
    different = comparison.disagreement({"one": first, "other": pair["other"].search(other_query, 10)[0]})
    assert same.rbo == pytest.approx(1)
    assert same.level is DisagreementLevel.USUAL
    assert different.rbo < same.rbo
    assert different.percentile < same.percentile


def test_stale_after_more_than_a_tenth_of_the_gallery_changed(pair: dict[str, SearchIndex]) -> None:
    monitor = AgreementMonitor(pair, OPTIONS)
    monitor.calibrate()
    vectors = unit_vectors(5, seed=9)
    for number in range(4):
        pair["one"].add([NewItem(id=f"new-{number}", vector=vectors[number])])
    before = monitor.stale
    pair["one"].add([NewItem(id="new-4", vector=vectors[4])])
    after = monitor.stale
    monitor.calibrate()
    assert (before, after, monitor.stale) == (False, True, False)


def test_a_deletion_during_the_calibration_makes_it_repeat(
    pair: dict[str, SearchIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, one = AgreementMonitor(pair, OPTIONS), pair["one"]
    vectors = one.vectors

    def deleting(ids: Sequence[str]) -> npt.NDArray[np.float32]:
        one.delete(ids[:1])
        return vectors(ids)

    with monkeypatch.context() as patch:
        patch.setattr(one, "vectors", deleting)
        monitor.calibrate()
    interrupted = monitor.stale
    monitor.calibrate()
    assert (interrupted, monitor.stale) == (True, False)
    assert monitor.comparison is not None


def test_too_few_items_give_no_comparison_and_are_not_measured_repeatedly(pair: dict[str, SearchIndex]) -> None:
    monitor = AgreementMonitor(pair, OPTIONS)
    monitor.calibrate()
    pair["other"].delete([f"item-{number}" for number in range(25)])
    stale = monitor.stale
    monitor.calibrate()
    assert stale
    assert monitor.comparison is None
    assert not monitor.stale


@pytest.mark.parametrize(
    ("keys", "compared"),
    [
        (("a", "b"), {"a", "b"}),
        (("a", "robust", "benign"), {"benign", "robust"}),
        (("a",), None),
        (("a", "b", "c"), None),
    ],
)
def test_benign_and_robust_are_compared_or_the_only_two_models(
    index: SearchIndex, keys: tuple[str, ...], compared: set[str] | None
) -> None:
    monitor = monitor_for(dict.fromkeys(keys, index))
    assert (None if monitor is None else set(monitor.keys)) == compared
