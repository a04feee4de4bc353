"""Tuning chooses by its measurements, and the measurements are correct."""

from dataclasses import replace

import numpy as np
import pytest

from hardrank.serving.ann.brute_force import complete_rows, nearest_among, nearest_in_range
from hardrank.serving.ann.faiss_index import build
from hardrank.serving.ann.faiss_kinds import SearchEffort
from hardrank.serving.ann.tuning import TuningQueries, TuningResult, fastest
from hardrank.serving.store.manifest import AnnKind
from tests.serving.conftest import unit_vectors


def _measured(recall: float, p50_ms: float) -> TuningResult:
    return TuningResult(structure="hnsw", width=1, fetch=1, recall_items=recall, recall_between=1.0, p50_ms=p50_ms)


def test_the_fastest_result_that_reaches_the_recall_is_chosen() -> None:
    measured = [_measured(0.9, 0.1), _measured(0.97, 0.5), _measured(0.99, 0.4), _measured(1.0, 2.0)]
    assert fastest(measured, recall=0.97) == measured[2]
    assert fastest(measured, recall=0.995) == measured[3]
    assert fastest(measured[:2], recall=0.99) == measured[1]
    assert replace(measured[3], recall_between=0.5).recall == 0.5


def test_more_results_and_fewer_items_take_more_effort() -> None:
    effort = SearchEffort(width=8, fetch=32)
    assert effort.scaled(10) == effort.scaled(3) == effort
    assert effort.scaled(40) == SearchEffort(width=16, fetch=128)
    assert effort.scaled(10, share=0.25) == SearchEffort(width=16, fetch=32)


def test_recall_is_the_share_of_true_neighbors_found() -> None:
    vectors = unit_vectors(2000)
    slots = np.arange(2000)
    queries_of_gallery = TuningQueries(vectors, slots)
    found = build(AnnKind.IVF_SQ8, vectors, slots, covered=2000, threads=1)
    low = queries_of_gallery.measure(found)
    tuned, measured = queries_of_gallery.tune(found, recall=0.99)
    high = queries_of_gallery.measure(tuned)
    assert low.recall < 0.99 <= high.recall
    assert fastest(measured, recall=0.99).effort == tuned.effort
    # By hand, for queries that are not the queries_of_gallery's: ten nearest of each, the query itself left out.
    items = vectors[::50]
    between = items + vectors[7::50]
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    for queries, first, claimed in ((items, 1, high.recall_items), (between, 0, high.recall_between)):
        true = np.argsort(-(queries @ vectors.T), axis=1)[:, first : first + 10]
        got = tuned.search(queries, 11)
        shares = [len(set(one) & set(other)) / 10 for one, other in zip(true.tolist(), got.tolist(), strict=True)]
        assert np.mean(shares) == pytest.approx(claimed, abs=0.04)


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("queries", [1, 3, 33])
@pytest.mark.parametrize("size", [1, 7, 300])
def test_exact_search_equals_sorting_all_scores(size: int, queries: int, count: int) -> None:
    generator = np.random.default_rng(size)
    vectors, asked = unit_vectors(size, seed=1), unit_vectors(queries, seed=2)
    alive = generator.random(size) < 0.7
    for start in (0, size // 2):
        own = np.flatnonzero(alive & (np.arange(size) >= start))
        for found in (
            nearest_in_range(asked, vectors, count, start=start, alive=alive, block=64),
            nearest_among(asked, vectors, count, slots=own, block=64),
        ):
            for query, slots in zip(asked, found, strict=True):
                expected = own[np.argsort(-(vectors[own] @ query))[:count]]
                there = slots[slots >= 0]
                assert set(expected) <= set(there) <= set(own)
                assert len(set(there)) == len(there)


def test_incomplete_rows_are_completed_by_exact_search() -> None:
    vectors, asked = unit_vectors(100, seed=1), unit_vectors(3, seed=2)
    alive = np.ones(100, dtype=np.bool_)
    slots = np.full((3, 4), -1, dtype=np.int64)
    slots[1] = [5, 6, 7, 8]
    complete = complete_rows(slots, asked, vectors, 4, alive=alive, existing=100)
    assert set(complete[1]) == {5, 6, 7, 8, -1}
    for number in (0, 2):
        assert set(np.argsort(-(vectors @ asked[number]))[:4]) <= set(complete[number])
    assert complete_rows(complete, asked, vectors, 4, alive=alive, existing=100) is complete
