"""The samplers against a naive reading of the method, an anchor at a time."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.metric.losses import hardness
from hardrank.trainer.metric.samplers import Sampler, TripletError, Triplets, draw_triplets

MARGIN = 0.2


def _batch(pairs: int, classes: int, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (pairs,), generator=generator).repeat_interleave(2)
    centers = torch.randn(classes, 16, generator=generator)
    noise = torch.randn(2 * pairs, 16, generator=generator)
    return F.normalize(centers[labels] + spread * noise, dim=1), labels


def _allowed(sampler: Sampler, d: Tensor, labels: Tensor, anchor: int) -> tuple[set[int], set[int]]:
    """Positives and negatives that the method lets a sampler draw for an anchor."""
    partner, rows = anchor + 1, range(len(labels))
    negatives = {n for n in rows if labels[n] != labels[anchor]}
    positives = {p for p in rows if labels[p] == labels[anchor] and p != anchor}
    if sampler is Sampler.RANDOM:
        return {partner}, negatives
    if sampler is Sampler.SEMIHARD:
        window = {n for n in negatives if d[anchor, partner] < d[anchor, n] < d[anchor, partner] + MARGIN}
        return {partner}, window or negatives
    if sampler is Sampler.SOFTHARD:
        hard_n = {n for n in negatives if d[anchor, n] < max(d[anchor, p] for p in positives)}
        hard_p = {p for p in positives if d[anchor, p] > min(d[anchor, n] for n in negatives)}
        return hard_p or positives, hard_n or negatives
    if sampler is Sampler.SOFTHARD_RELEASED:
        expected_p, expected_n = _allowed(Sampler.SOFTHARD, d, labels, anchor)
        nearest = min(d[anchor, n] for n in negatives)
        fallback = not any(d[anchor, p] > nearest for p in positives)
        return expected_p | ({anchor} if fallback else set()), expected_n
    if sampler is Sampler.DISTANCE_RELEASED:
        return {partner}, negatives
    if sampler is Sampler.DISTANCE:
        return {partner}, {n for n in negatives if d[anchor, n] < 1.4} or negatives
    return {partner}, {min(negatives, key=lambda n: float(d[anchor, n]))}


@pytest.mark.parametrize("sampler", list(Sampler))
@pytest.mark.parametrize(("pairs", "classes", "spread"), [(12, 4, 1.0), (6, 5, 0.1), (9, 2, 3.0), (2, 2, 1.0)])
def test_draws_exactly_the_allowed_rows(sampler: Sampler, pairs: int, classes: int, spread: float) -> None:
    embeddings, labels = _batch(pairs, classes, seed=pairs, spread=spread)
    if labels.unique().numel() == 1:
        labels[:2] = classes
    d = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    generator = torch.Generator().manual_seed(1)
    drawn: dict[int, tuple[set[int], set[int]]] = {}
    for _ in range(300):
        triplets = draw_triplets(sampler, embeddings, labels, generator=generator, margin=MARGIN)
        assert triplets.anchor.tolist() == list(range(0, 2 * pairs, 2))
        for a, p, n in zip(*(part.tolist() for part in vars(triplets).values()), strict=True):
            positives, negatives = drawn.setdefault(a, (set(), set()))
            positives.add(p)
            negatives.add(n)
    for anchor, (positives, negatives) in drawn.items():
        allowed_positives, allowed_negatives = _allowed(sampler, d, labels, anchor)
        assert positives <= allowed_positives
        assert negatives <= allowed_negatives
        if sampler not in {
            Sampler.DISTANCE,
            Sampler.DISTANCE_RELEASED,
        }:  # there, an unlikely negative need not have come up
            assert positives == allowed_positives
            assert negatives == allowed_negatives


@pytest.mark.parametrize("sampler", [Sampler.DISTANCE, Sampler.DISTANCE_RELEASED])
def test_distance_weighted_frequencies_follow_the_inverse_density(sampler: Sampler) -> None:
    embeddings, labels = _batch(6, 3, seed=3)
    d = torch.cdist(embeddings, embeddings)
    dimension, anchor, draws = embeddings.shape[1], 0, 20_000
    weights = {}
    for n in range(len(labels)):
        bounded = sampler is Sampler.DISTANCE
        near = max(float(d[anchor, n]), 0.5) if bounded else float(d[anchor, n])
        if labels[n] != labels[anchor] and (near < 1.4 or not bounded):
            weights[n] = near ** (2 - dimension) * (1 - near**2 / 4) ** ((3 - dimension) / 2)
    generator = torch.Generator().manual_seed(0)
    counts: dict[int, int] = {}
    for _ in range(draws // 6):
        triplets = draw_triplets(sampler, embeddings, labels, generator=generator)
        negative = int(triplets.negative[0])
        counts[negative] = counts.get(negative, 0) + 1
    total, seen = sum(weights.values()), sum(counts.values())
    for n, weight in weights.items():
        expected = weight / total
        assert counts.get(n, 0) / seen == pytest.approx(expected, abs=4 * math.sqrt(expected / seen) + 1e-3)


def test_samplers_are_ordered_by_mean_hardness() -> None:
    embeddings, labels = _batch(112, 12, seed=5, spread=0.9)
    generator = torch.Generator().manual_seed(0)
    means = {}
    for sampler in Sampler:
        values = [
            hardness(*draw_triplets(sampler, embeddings, labels, generator=generator).gather(embeddings)).mean()
            for _ in range(20)
        ]
        means[sampler] = torch.stack(values).mean().item()
    assert means[Sampler.RANDOM] < means[Sampler.SEMIHARD] < means[Sampler.SOFTHARD]
    assert means[Sampler.RANDOM] < means[Sampler.DISTANCE] <= means[Sampler.HARDEST]


@pytest.mark.parametrize("sampler", list(Sampler))
def test_a_single_class_gives_no_triplet(sampler: Sampler) -> None:
    embeddings, _ = _batch(4, 1)
    assert len(draw_triplets(sampler, embeddings, torch.zeros(8, dtype=torch.long))) == 0


@pytest.mark.parametrize("sampler", list(Sampler))
def test_the_same_generator_gives_the_same_triplets(sampler: Sampler) -> None:
    embeddings, labels = _batch(20, 5)

    def draw() -> Triplets:
        return draw_triplets(sampler, embeddings, labels, generator=torch.Generator().manual_seed(7))

    assert torch.equal(draw().negative, draw().negative)
    assert torch.equal(draw().positive, draw().positive)


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [0, 0, 1]])
def test_rows_that_are_no_pairs_are_refused(labels: list[int]) -> None:
    with pytest.raises(TripletError, match="pairs"):
        draw_triplets(Sampler.RANDOM, F.normalize(torch.randn(len(labels), 4), dim=1), torch.tensor(labels))
