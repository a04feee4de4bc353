"""The search step answers correctly even if the gallery changed after the request was accepted."""

import numpy as np

from hardrank.models.preprocessing import to_unit
from hardrank.serving.agreement.calibration import CalibrationOptions
from hardrank.serving.agreement.monitor import AgreementMonitor, Comparison
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.batch_steps import EmbedJob, EmbedResult, EmbedStep, SearchJob, SearchResult, SearchStep
from hardrank.serving.search.models import Model
from tests.serving.conftest import make_manifest, new_items, unit_vectors


def test_batches_of_any_size_have_the_embeddings_of_single_images(index: SearchIndex, engine: Engine) -> None:
    """The input of the network is written to the same memory each time."""
    preprocessing, shape = engine.preprocessing, engine.input_shape
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    step = EmbedStep({"one": Model(key="one", engine=engine, index=index)})
    numbers = iter(range(len(images)))
    for size in (3, 1, 20, 16):
        own = [next(numbers) for _ in range(size)]
        results = step([EmbedJob(models=("one",), pixels={preprocessing: images[number]}) for number in own])
        for number, result in zip(own, results, strict=True):
            assert isinstance(result, EmbedResult)
            expected = engine.embed(to_unit(images[number])[None])[0]
            np.testing.assert_allclose(result.vectors["one"], expected, atol=1e-5)


def test_items_deleted_after_the_request_shorten_the_results(index: SearchIndex, engine: Engine) -> None:
    vectors = unit_vectors(10)
    index.add(new_items(vectors))
    step = SearchStep({"one": Model(key="one", engine=engine, index=index)}, None)
    job = SearchJob(models=("one",), vectors={"one": vectors[0]}, k=10)
    index.delete(["item-3"])
    (result,) = step([job])
    assert isinstance(result, SearchResult)
    assert {match.item.id for match in result.matches["one"]} == {f"item-{n}" for n in range(10) if n != 3}


class StaleDepth(Comparison):
    """As if an item was deleted after the depth was limited to the size of the index."""

    def depth(self, key: str) -> int:
        return self.indexes[key].size + 1


def test_a_comparison_deeper_than_the_index_does_not_fail_the_search(index: SearchIndex, engine: Engine) -> None:
    vectors = unit_vectors(30)
    other = SearchIndex.create(index.folder.with_name("other"), manifest=make_manifest())
    models = {key: Model(key=key, engine=engine, index=one) for key, one in (("one", index), ("other", other))}
    for model in models.values():
        model.index.add(new_items(vectors))
    indexes = {key: model.index for key, model in models.items()}
    monitor = AgreementMonitor(indexes, CalibrationOptions(sample=20))
    monitor.calibrate()
    assert monitor.comparison is not None
    monitor.comparison = StaleDepth(indexes=indexes, calibration=monitor.comparison.calibration)
    (result,) = SearchStep(models, monitor)(
        [SearchJob(models=("one", "other"), vectors=dict.fromkeys(models, vectors[0]), k=3, compare_models=True)]
    )
    assert isinstance(result, SearchResult)
    assert [len(matches) for matches in result.matches.values()] == [3, 3]
    assert result.disagreement is not None
