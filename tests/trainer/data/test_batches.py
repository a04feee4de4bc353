"""SPC-2 batches: their properties, checked by loops."""

from collections import Counter

import numpy as np
import pytest

from hardrank.trainer.data.batches import Rows, draw_partners, spc2_batches
from hardrank.trainer.data.dataset import DatasetError


def labels_of(*sizes: int, seed: int = 0) -> Rows:
    """Labels of classes of these sizes, in random order."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels).astype(np.int64)


@pytest.mark.parametrize("sizes", [(2, 2), (5,), (2, 3, 4, 50), (30,) * 7])
@pytest.mark.parametrize("pairs", [2, 3, 8, 500])
def test_every_image_is_an_anchor_once_with_a_partner_of_its_class(sizes: tuple[int, ...], pairs: int) -> None:
    labels = labels_of(*sizes)
    batches = spc2_batches(labels, pairs=pairs, epoch=0, seed=0)
    anchors = Counter[int]()
    for batch in batches:
        assert batch.dtype == np.int64
        assert batch.ndim == 1
        for even in range(0, len(batch), 2):
            anchor, partner = int(batch[even]), int(batch[even + 1])
            assert anchor != partner
            assert labels[anchor] == labels[partner]
            anchors[anchor] += 1
    rest = len(labels) % pairs
    assert set(anchors.values()) == {1}
    assert sum(anchors.values()) == len(labels) - (rest if rest == 1 else 0)
    assert [len(batch) for batch in batches] == [2 * pairs] * (len(labels) // pairs) + [2 * rest] * (rest >= 2)


def test_partners_are_uniform_over_the_others_of_the_class() -> None:
    labels = labels_of(2, 4, 7)
    generator = np.random.default_rng(0)
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    draws = 6000
    for _ in range(draws):
        counts[np.arange(len(labels)), draw_partners(labels, generator)] += 1
    for anchor in range(len(labels)):
        others = int((labels == labels[anchor]).sum()) - 1
        for partner in range(len(labels)):
            possible = partner != anchor and labels[partner] == labels[anchor]
            chance = 1 / others if possible else 0.0
            assert abs(counts[anchor, partner] - draws * chance) <= 5 * np.sqrt(draws * chance * (1 - chance))


def test_labels_need_not_be_dense() -> None:
    labels = np.array([70, -3, 70, 900, 900, -3], dtype=np.int64)
    partners = draw_partners(labels, np.random.default_rng(0))
    assert partners.tolist() == [2, 5, 0, 4, 3, 1]


def test_only_seed_and_epoch_decide() -> None:
    labels = labels_of(5, 6, 7)

    def flat(epoch: int, seed: int) -> list[int]:
        batches = spc2_batches(labels, pairs=4, epoch=epoch, seed=seed)
        return [int(row) for batch in batches for row in batch]

    assert flat(3, 1) == flat(3, 1)
    assert len({tuple(flat(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("count", [24, 25, 29, 31])
def test_ranks_share_the_anchors(world_size: int, count: int) -> None:
    labels = labels_of(count - 10, 10)
    ranks = [
        spc2_batches(labels, pairs=4, epoch=2, seed=7, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    shapes = {tuple(len(batch) for batch in batches) for batches in ranks}
    assert len(shapes) == 1
    anchors = Counter(int(anchor) for batches in ranks for batch in batches for anchor in batch[::2])
    repeated = -count % world_size
    per_rank = (count + repeated) // world_size
    dropped = world_size if per_rank % 4 == 1 else 0
    assert sum(anchors.values()) == count + repeated - dropped
    assert max(anchors.values()) <= 2
    assert sum(times - 1 for times in anchors.values()) <= repeated
    if not dropped:
        assert len(anchors) == count
    if not repeated:
        assert max(anchors.values()) == 1


def test_partners_do_not_depend_on_the_number_of_processes() -> None:
    labels = labels_of(8, 8)

    def partners(world_size: int) -> dict[int, int]:
        return {
            int(anchor): int(partner)
            for rank in range(world_size)
            for batch in spc2_batches(labels, pairs=4, epoch=0, seed=0, rank=rank, world_size=world_size)
            for anchor, partner in batch.reshape(-1, 2)
        }

    assert partners(1) == partners(2) == partners(4)


def test_more_processes_than_images_get_equally_many() -> None:
    labels = labels_of(2, 2)
    batches = [spc2_batches(labels, pairs=4, epoch=0, seed=0, rank=rank, world_size=11) for rank in range(11)]
    assert {len(batch) for batch in batches} == {0}


def test_one_class() -> None:
    (batch,) = spc2_batches(labels_of(3), pairs=4, epoch=0, seed=0)
    assert sorted(batch[::2].tolist()) == [0, 1, 2]


def test_no_images() -> None:
    assert spc2_batches(np.empty(0, dtype=np.int64), pairs=4, epoch=0, seed=0) == []


def test_class_of_one_image() -> None:
    with pytest.raises(DatasetError, match="no second image"):
        spc2_batches(labels_of(3, 1), pairs=4, epoch=0, seed=0)


@pytest.mark.parametrize("pairs", [1, 0, -3])
def test_single_pairs(pairs: int) -> None:
    with pytest.raises(DatasetError, match="at least 2 pairs"):
        spc2_batches(labels_of(3, 3), pairs=pairs, epoch=0, seed=0)
