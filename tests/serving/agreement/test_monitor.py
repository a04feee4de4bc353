"""What is usual is measured when it is needed, and not said where it cannot be known."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hardrank.serving.agreement.calibration import SuspicionOptions
from hardrank.serving.agreement.monitor import Hint
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from tests.serving.conftest import make_manifest, new_items, unit_vectors

OPTIONS = SuspicionOptions(sample=20, depth=10)


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, SearchIndex]:
    """Two models that see forty images in much the same way."""
    made = {key: SearchIndex.create(tmp_path / key, manifest=make_manifest()) for key in ("one", "other")}
    for index in made.values():
        index.add(new_items(unit_vectors(40)))
    return made


def test_nothing_is_said_before_it_is_measured(pair: dict[str, SearchIndex]) -> None:
    hint = Hint(pair, OPTIONS)
    before, stale = hint.judge, hint.stale
    hint.calibrate()
    after = hint.judge
    assert before is None
    assert stale
    assert not hint.stale
    assert after is not None
    assert after.depth("one") == 10


def test_models_that_agree_are_usual_and_one_that_was_fooled_is_not(pair: dict[str, SearchIndex]) -> None:
    hint = Hint(pair, OPTIONS)
    hint.calibrate()
    judge = hint.judge
    assert judge is not None
    query, elsewhere = unit_vectors(1, seed=5), unit_vectors(1, seed=6)
    agreed = judge({key: index.search(query, 10)[0] for key, index in pair.items()})
    fooled = judge({"one": pair["one"].search(query, 10)[0], "other": pair["other"].search(elsewhere, 10)[0]})
    assert agreed.rbo == pytest.approx(1)
    assert agreed.level.value == "usual"
    assert fooled.rbo < agreed.rbo
    assert fooled.percentile < agreed.percentile


def test_a_tenth_of_change_makes_it_stale(pair: dict[str, SearchIndex]) -> None:
    hint = Hint(pair, OPTIONS)
    hint.calibrate()
    vectors = unit_vectors(5, seed=9)
    for number in range(4):
        pair["one"].add([NewItem(id=f"new-{number}", vector=vectors[number])])
    before = hint.stale
    pair["one"].add([NewItem(id="new-4", vector=vectors[4])])
    after = hint.stale
    hint.calibrate()
    assert (before, after, hint.stale) == (False, True, False)


def test_an_item_that_is_deleted_meanwhile_does_not_leave_the_hint_unmeasured(
    pair: dict[str, SearchIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    hint, one = Hint(pair, OPTIONS), pair["one"]
    vector = one.vector

    def deleting(id: str) -> npt.NDArray[np.float32]:
        one.delete([id])
        return vector(id)

    with monkeypatch.context() as patch:
        patch.setattr(one, "vector", deleting)
        hint.calibrate()
    interrupted = hint.stale
    hint.calibrate()
    assert (interrupted, hint.stale) == (True, False)
    assert hint.judge is not None


def test_too_few_items_give_no_hint_and_are_not_measured_again_and_again(pair: dict[str, SearchIndex]) -> None:
    hint = Hint(pair, OPTIONS)
    hint.calibrate()
    pair["other"].delete([f"item-{number}" for number in range(25)])
    stale = hint.stale
    hint.calibrate()
    assert stale
    assert hint.judge is None
    assert not hint.stale
