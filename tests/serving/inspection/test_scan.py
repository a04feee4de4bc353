"""Planted hubs are found among hardly anything else, and items that models see differently are listed first."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.inspection.hubs import Occurrences, hub_scores, k_occurrences, robust_z
from hardrank.serving.inspection.neighbors import neighbor_overlaps
from hardrank.serving.inspection.scan import ScanError, ScanOptions, scan
from hardrank.serving.scan import main
from hardrank.serving.store.items import NewItem
from tests.serving.conftest import make_manifest, new_items, unit_vectors

Vectors = npt.NDArray[np.float32]
THRESHOLD = ScanOptions().threshold


def _unit(vectors: npt.NDArray[Any]) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _gallery(
    seed: int, *, items: int, dimension: int, labels: int, spread: float
) -> tuple[Vectors, npt.NDArray[np.int32]]:
    """Embeddings around the centers of labels, with something in common as those of networks have."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, labels, items).astype(np.int32)
    centers = generator.normal(size=(labels, dimension)) + 0.3 * generator.normal(size=dimension)
    return _unit(centers[numbers] + spread * generator.normal(size=(items, dimension))), numbers


def _plant(vectors: Vectors, count: int, *, k: int = 10, seed: int = 0) -> Vectors:
    """Hubs as an attacker makes them: gradient ascent on how many items have the hub among their k nearest."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    needed = np.partition(similar, -k, axis=1)[:, -k]
    hubs = vectors[np.random.default_rng(seed).choice(len(vectors), count, replace=False)]
    for _ in range(60):
        decay = np.exp(-np.abs(hubs @ vectors.T - needed) / 0.05)
        hubs = _unit(hubs + 0.5 * _unit(decay / (1 + decay) ** 2 @ vectors))
    return hubs


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("items", "dimension", "labels", "spread"),
    [(2500, 64, 1, 1.0), (2500, 64, 30, 3.0), (2000, 128, 20, 4.0), (2000, 32, 10, 0.7)],
)
def test_planted_hubs_are_found_among_few_others(
    items: int, dimension: int, labels: int, spread: float, seed: int
) -> None:
    gallery, numbers = _gallery(seed, items=items, dimension=dimension, labels=labels, spread=spread)
    hubs = _plant(gallery, 8, seed=seed)
    generator = np.random.default_rng(seed)
    label_numbers = np.concatenate([numbers, generator.integers(0, labels, len(hubs)).astype(np.int32)])
    vectors = np.concatenate([gallery, hubs])
    found = k_occurrences(vectors, 10)
    assert found.counts[items:].min() > 4 * found.expected  # else they are no hubs
    flagged = hub_scores(vectors, label_numbers, found).combined > THRESHOLD
    assert flagged[items:].mean() >= 0.9
    # Galleries without clusters have hubs of their own, which a scan may list.
    assert (flagged[:items] & (found.counts[:items] < 3 * found.expected)).mean() <= 0.005


def test_queries_near_to_each_other_count_less() -> None:
    """As many items have the hub and the middle of a cluster among their nearest; those of the hub are unrelated."""
    generator = np.random.default_rng(0)
    centers = np.eye(40, dtype=np.float32)
    members = np.repeat(centers[:1], 20, axis=0) + 0.05 * generator.normal(size=(20, 40))
    pairs = np.repeat(centers[1:], 2, axis=0) + 0.05 * generator.normal(size=(78, 40))
    vectors = _unit(np.concatenate([members.mean(0, keepdims=True), pairs[::4].mean(0, keepdims=True), members, pairs]))
    found = k_occurrences(vectors, 3)
    middle, hub = 0, 1
    assert found.counts[middle] >= 15
    assert found.counts[hub] >= 15
    assert found.unrelated[hub] > 2 * found.unrelated[middle]
    assert (found.unrelated <= found.counts + 1e-9).all()
    assert (found.unrelated >= np.sqrt(found.counts) / 2).all()


@pytest.mark.parametrize("step", [1, 3])
def test_unrelated_occurrences_equal_those_of_a_loop(step: int) -> None:
    vectors = unit_vectors(90)
    queries = np.arange(0, 90, step)
    found = k_occurrences(vectors, 6, queries=queries)
    nearest = {query: set(row) for query, row in zip(queries.tolist(), found.neighbors.tolist(), strict=True)}
    expected = np.zeros(90)
    for item in range(90):
        own = {query for query in nearest if item in nearest[query]}
        for query in own:
            expected[item] += 1 / np.sqrt(1 + len(own & nearest[query]))
    assert np.allclose(found.unrelated, expected, rtol=1e-12)


def test_a_hub_may_be_unusual_in_its_label_only() -> None:
    """Half of the items are copies of each other and so hubs of each other; a lesser hub stands out in its label."""
    roots = np.sqrt(np.random.default_rng(0).poisson([40] * 200 + [4] * 200))
    counts = (np.append(roots, 6.5) ** 2).round().astype(np.int64)
    labels = np.array([0] * 200 + [1] * 201, dtype=np.int32)
    none = np.empty((0, 10), dtype=np.int64)
    occurrences = Occurrences(
        k=10,
        queries=401,
        neighbors=none,
        counts=counts,
        unrelated=counts.astype(np.float64),
        expected=float(counts.mean()),
    )
    scores = hub_scores(unit_vectors(401), labels, occurrences)
    assert scores.in_label[-1] == scores.in_label.max() > THRESHOLD
    assert scores.overall[-1] < THRESHOLD


def test_occurrences_equal_those_of_a_loop() -> None:
    vectors = unit_vectors(60)
    expected = np.zeros(60, dtype=np.int64)
    for query in range(0, 60, 2):
        others = sorted((n for n in range(60) if n != query), key=lambda n: -float(vectors[query] @ vectors[n]))
        expected[others[:7]] += 1
    found = k_occurrences(vectors, 7, queries=np.arange(0, 60, 2))
    assert np.array_equal(found.counts, expected)
    assert found.expected == pytest.approx(30 * 7 / 60)
    assert k_occurrences(vectors[:4], 10).neighbors.tolist()[0].count(-1) == 7


def test_memory_is_bounded_in_large_galleries() -> None:
    """Similarities and their order are computed in blocks of queries; all at once, they take 480 MB here."""
    vectors = unit_vectors(20_000)
    tracemalloc.start()
    try:
        found = k_occurrences(vectors, 10, queries=np.arange(2000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.counts.sum() == 20_000
    assert peak < 250e6


def test_robust_scores_ignore_outliers() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    assert robust_z(values).std() == pytest.approx(1, abs=0.05)
    assert robust_z(np.append(values, [1000.0] * 100))[-1] > 800
    assert robust_z(np.append(values[:100], 1000.0))[-1] > 700
    assert robust_z(np.full(5, 3.0)).tolist() == [0.0] * 5


def test_overlap_of_neighbors() -> None:
    vectors = unit_vectors(40)
    found = k_occurrences(vectors, 5)
    assert neighbor_overlaps(found, found).tolist() == [1.0] * 40
    changed = vectors.copy()
    changed[3] = -changed[3]
    overlaps = neighbor_overlaps(found, k_occurrences(changed, 5))
    assert overlaps.argmin() == 3


@pytest.fixture
def indexes(tmp_path: Path) -> list[SearchIndex]:
    """Two indexes of the same ids; the second sees item-7 elsewhere, and lacks item-8."""
    gallery = _gallery(0, items=600, dimension=16, labels=1, spread=1.0)[0]
    vectors = np.concatenate([gallery, _plant(gallery, 1)])
    other = vectors.copy()
    other[7] = -other[7]
    made = []
    for name, own, left_out in (("one", vectors, ""), ("other", other, "item-8")):
        index = SearchIndex.create(tmp_path / name, manifest=make_manifest(), maintenance=False)
        index.add([item for item in new_items(own, labels=3) if item.id != left_out])
        made.append(index)
    return made


def test_the_command_lists_hubs_and_disagreements(
    indexes: list[SearchIndex], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (str(index.folder) for index in indexes)
    report = tmp_path / "scan.json"
    assert main(["--index", one, "--compare", other, "--json", str(report), "--top", "3"]) == 0
    shown = capsys.readouterr().out
    assert "600 items" in shown
    assert "item-600" in shown
    written = json.loads(report.read_text())
    assert written["hubs"][0]["id"] == "item-600"
    assert len(written["hubs"]) <= 6  # 1 % of a gallery without clusters, which has hubs of its own
    assert written["disagreements"][0]["id"] == "item-7"
    assert len(written["disagreements"]) == 600
    assert main(["--index", one, "--queries", "50"]) == 0
    assert "50 of them" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = SearchIndex.create(tmp_path / "index", manifest=make_manifest(), maintenance=False)
    index.add([NewItem(id="only", vector=unit_vectors(1)[0])])
    for arguments in (["--index", str(tmp_path / "absent")], ["--index", str(index.folder)]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ScanError):
        scan(index)
    with pytest.raises(ScanError, match="k is 0"):
        ScanOptions(k=0)
