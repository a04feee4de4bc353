"""Retrieval metrics of embeddings on the sphere: Recall@K, mAP, mAP@R, NMI, and a check for collapse; pure.

Every image is a query against the whole set, itself left out by its row (evaluation: On benign images).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.errors import HardrankError

ABSENT: Final = -1
"""The row of a query that has no copy of its own in the gallery."""

CHUNK_ELEMENTS: Final = 1 << 22
"""How many distances are held at once: 16 MiB in float32."""

_SPHERE_TOLERANCE: Final = 1e-2


class RetrievalError(HardrankError):
    """Embeddings or labels that cannot be ranked."""


@dataclass(frozen=True, kw_only=True)
class RetrievalMetrics:
    """What `evaluate` measures; fractions in [0,1] unless said otherwise."""

    recall_at_1: float
    """Recall@1: queries whose nearest other item is of their class."""
    recall_at_2: float
    """Recall@2."""
    mean_ap: float
    """mAP: average precision over the full ranking."""
    map_at_r: float
    """mAP@R: average precision over the first R, R the number of relevant items."""
    nmi: float
    """Normalised mutual information of the classes and a k-means clustering with as many clusters."""
    mean_cosine: float
    """Mean cosine of all pairs, in [−1,1]: near 1 the embedding has collapsed."""
    queries: int
    """Queries that count: those with at least one other item of their class."""
    without_match: int
    """Queries left out of recall and precision, alone in their class."""

    def to_dict(self) -> dict[str, Any]:
        """Give the metrics by name, ready for JSON."""
        return asdict(self)


def check_sphere(embeddings: Tensor, *, what: str = "embeddings") -> None:
    """Raise `RetrievalError` unless `embeddings` is (N,D), finite, with rows of norm 1."""
    if embeddings.ndim != 2:
        raise RetrievalError(f"{what} must have the shape (N,D), not {tuple(embeddings.shape)}")
    norms = torch.linalg.vector_norm(embeddings, dim=1)
    wrong = (norms - 1).abs().le(_SPHERE_TOLERANCE).logical_not()  # also true for NaN
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise RetrievalError(
            f"{what}: {int(wrong.sum())} of {len(embeddings)} rows are not on the unit sphere, the first is "
            f"row {row} with norm {norms[row].item():g}; normalise them to length 1"
        )


def pairwise_distances(points: Tensor, gallery: Tensor, *, squares: Tensor | None = None) -> Tensor:
    """Euclidean d of each of `points` (Q,D) to each of `gallery` (N,D) → (Q,N), differentiable in `points`.

    One matrix product: d² = |q|² − 2q·x + |x|², where `squares` (N,) gives |x|² to who has it already.
    Rounding in d² is bounded by a floor, at which the gradient is zero: below it the distance is noise, and
    its gradient could be longer than a unit vector.
    """
    of_gallery = gallery.square().sum(1) if squares is None else squares
    squared = torch.addmm(of_gallery, points, gallery.T, alpha=-2) + points.square().sum(1)[:, None]
    return _floored_root(squared)


def row_distances(points: Tensor, items: Tensor) -> Tensor:
    """Euclidean d of each of `points` (Q,D) to its row of `items` (Q,D) → (Q,), with the same floor."""
    return _floored_root((points - items).square().sum(1))


def _floored_root(squared: Tensor) -> Tensor:
    return squared.clamp_min(8 * torch.finfo(squared.dtype).eps).sqrt()


def leave_out(distances: Tensor, own: Tensor) -> Tensor:
    """Put each query's own row, `own` (Q,) or `ABSENT`, behind every other item of `distances` (Q,N).

    The one place where self-matches are left out, of clean and attacked queries alike.
    """
    masked = distances.clone()
    present = own.ne(ABSENT).nonzero().squeeze(1)
    masked[present, own[present]] = torch.inf
    return masked


def nearest(points: Tensor, gallery: Tensor, own: Tensor, k: int) -> Tensor:
    """Find the `k` rows of `gallery` (N,D) nearest to each of `points` (Q,D), itself left out → (Q,k).

    Raises `RetrievalError` when fewer than `k` others exist.
    """
    others = len(gallery) - int(own.ne(ABSENT).any())
    if not 0 < k <= others:
        raise RetrievalError(f"k = {k} nearest items were asked of a gallery with {others} others")
    found = [
        leave_out(distances, own[rows]).topk(k, largest=False).indices
        for rows, distances in distance_chunks(points, gallery)
    ]
    return torch.cat(found) if found else own.new_empty((0, k))


def distance_chunks(points: Tensor, gallery: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of `points` (Q,D) with their distances to `gallery` (N,D), never all Q × N at once."""
    size = max(1, CHUNK_ELEMENTS // max(1, len(gallery)))
    for start in range(0, len(points), size):
        rows = slice(start, min(start + size, len(points)))
        yield rows, pairwise_distances(points[rows], gallery)


def recall_at_1(points: Tensor, gallery: Tensor, labels: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """Say whether the item nearest to each of `points` (Q,D), itself left out, is of `wanted` (Q,) → bool."""
    return labels[nearest(points, gallery, own, 1).squeeze(1)].eq(wanted)


@torch.no_grad()
def evaluate(embeddings: Tensor, labels: Tensor, *, seed: int = 0, nmi: bool = True) -> RetrievalMetrics:
    """Measure `embeddings` (N,D) on the sphere with `labels` (N,), each image a query against all others.

    `seed` draws the start of k-means; without `nmi` that figure is NaN. Images alone in
    their class have nothing to find: they are left out as queries, and stay in the gallery. No N × N matrix
    is kept. Raises `RetrievalError` for embeddings off the sphere, labels of another length, or no class with
    two images.
    """
    check_sphere(embeddings)
    if labels.shape != (len(embeddings),):
        raise RetrievalError(f"{len(embeddings)} embeddings need as many labels, not {tuple(labels.shape)}")
    _, inverse, sizes = np.unique(labels.cpu().numpy(), return_inverse=True, return_counts=True)
    classes = torch.from_numpy(inverse).to(embeddings.device)
    relevant = torch.from_numpy(sizes).to(embeddings.device)[classes] - 1
    counted = relevant.gt(0).nonzero().squeeze(1)
    if counted.numel() == 0:
        raise RetrievalError("no class has two images, so no query has anything to find")
    sums = torch.zeros(4, dtype=torch.float64, device=embeddings.device)
    for rows, distances in distance_chunks(embeddings[counted], embeddings):
        own = counted[rows]
        order = leave_out(distances, own).argsort(dim=1, stable=True)[:, :-1]
        hits = classes[order].eq(classes[own, None])
        sums += _sums(hits, relevant[own])
    recall_1, recall_2, mean_ap, map_at_r = (sums / len(counted)).tolist()
    return RetrievalMetrics(
        recall_at_1=recall_1,
        recall_at_2=recall_2,
        mean_ap=mean_ap,
        map_at_r=map_at_r,
        nmi=cluster_nmi(embeddings, classes, seed=seed) if nmi else float("nan"),
        mean_cosine=mean_cosine(embeddings),
        queries=len(counted),
        without_match=len(embeddings) - len(counted),
    )


def _sums(hits: Tensor, relevant: Tensor) -> Tensor:
    """Sum Recall@1, Recall@2, AP and AP@R over queries; `hits` (Q,N−1) by rank, `relevant` (Q,) ≥ 1."""
    position = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    gain = torch.where(hits, hits.cumsum(1, dtype=torch.int32) / position, 0.0)
    within_r = gain * (position <= relevant[:, None])
    return torch.stack(
        [
            hits[:, 0].sum().double(),
            hits[:, :2].any(1).sum().double(),
            (gain.sum(1, dtype=torch.float64) / relevant).sum(),
            (within_r.sum(1, dtype=torch.float64) / relevant).sum(),
        ]
    )


def cluster_nmi(embeddings: Tensor, classes: Tensor, *, seed: int) -> float:
    """NMI in [0,1] of `classes` (N,) and k-means on `embeddings` (N,D) with as many clusters as classes."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    truth = classes.cpu().numpy()
    clusters = len(np.unique(truth))
    kmeans = KMeans(clusters, n_init=1, max_iter=100, random_state=seed)
    found = kmeans.fit_predict(embeddings.float().cpu().numpy())
    return float(normalized_mutual_info_score(truth, found))


def mean_cosine(embeddings: Tensor) -> float:
    """Give the mean cosine of all pairs of different rows of `embeddings` (N,D) on the sphere, in [−1,1].

    In closed form: (|Σx|² − Σ|x|²) / N(N−1). NaN for fewer than two rows.
    """
    count = len(embeddings)
    if count < 2:
        return float("nan")
    whole = embeddings.sum(0, dtype=torch.float64).square().sum() - embeddings.square().sum(dtype=torch.float64)
    return float(whole) / (count * (count - 1))
