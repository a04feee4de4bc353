"""The stages answer what was asked, though the gallery has changed since."""

import pytest

from hardrank.serving.agreement.calibration import SuspicionOptions
from hardrank.serving.agreement.monitor import Hint
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.batch_steps import Found, SearchJob, SearchStage
from hardrank.serving.search.models import Model
from tests.serving.conftest import make_manifest, new_items, unit_vectors


def test_items_that_went_since_the_question_make_the_answer_shorter(index: SearchIndex, engine: Engine) -> None:
    vectors = unit_vectors(10)
    index.add(new_items(vectors))
    stage = SearchStage({"one": Model(key="one", engine=engine, index=index)}, None)
    job = SearchJob(models=("one",), vectors={"one": vectors[0]}, k=10)
    index.delete(["item-3"])
    (found,) = stage([job])
    assert isinstance(found, Found)
    assert {match.item.id for match in found.matches["one"]} == {f"item-{n}" for n in range(10) if n != 3}


def test_the_depth_of_the_hint_is_no_error_of_who_asks_for_few(
    index: SearchIndex, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit_vectors(30)
    other = SearchIndex.create(index.folder.with_name("other"), manifest=make_manifest())
    models = {key: Model(key=key, engine=engine, index=one) for key, one in (("one", index), ("other", other))}
    for model in models.values():
        model.index.add(new_items(vectors))
    hint = Hint({key: model.index for key, model in models.items()}, SuspicionOptions(sample=20))
    hint.calibrate()
    # As when an item is deleted after the depth was fitted to the size.
    monkeypatch.setattr("hardrank.serving.agreement.monitor.Judge.depth", lambda judge, key: 31)
    (found,) = SearchStage(models, hint)(
        [SearchJob(models=("one", "other"), vectors=dict.fromkeys(models, vectors[0]), k=3, hint=True)]
    )
    assert isinstance(found, Found)
    assert [len(matches) for matches in found.matches.values()] == [3, 3]
    assert found.suspicion is not None
