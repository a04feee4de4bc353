"""Retrieval metrics of embeddings on the unit sphere: Recall@K, mAP, mAP@R, NMI and the mean cosine of pairs.

Each image is a query against the whole set, itself left out by its row.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.trainer.metric.distances import RetrievalError, check_sphere, distance_chunks, leave_out, mean_cosine

INITIALIZATIONS: Final = 10
"""Starts of k-means for NMI, of which the one with the least inertia counts."""
LARGE_CLUSTERING: Final = 10_000_000
"""Number of images times number of classes beyond which k-means starts once: each start would take minutes."""


@dataclass(frozen=True, kw_only=True)
class RetrievalMetrics:
    """The result of `evaluate`; fractions in [0,1] unless stated otherwise."""

    recall_at_1: float
    """Recall@1: queries whose nearest other item is of their class."""
    recall_at_2: float
    """Recall@2."""
    mean_ap: float
    """mAP: average precision over the full ranking."""
    map_at_r: float
    """mAP@R: average precision over the first R = class size − 1 items; the paper's released code fixes R at 10."""
    nmi: float
    """Normalized mutual information of the classes and k-means, the best of ten starts; it varies with the seed."""
    mean_cosine: float
    """Mean cosine of all pairs, in [−1,1]: near 1 the embedding has collapsed."""
    queries: int
    """Queries that were evaluated: those with at least one other item of their class."""
    without_match: int
    """Images that were not queries, because they are alone in their class."""

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name, as JSON values."""
        return asdict(self)


@torch.no_grad()
def evaluate(embeddings: Tensor, labels: Tensor, *, seed: int = 0, nmi: bool = True) -> RetrievalMetrics:
    """Measure retrieval with each image as a query against all others.

    Images alone in their class are no queries, but stay in the gallery. No N × N matrix is kept.

    Args:
        embeddings: (N,D) on the unit sphere.
        labels: (N,) classes.
        seed: of the starts of k-means.
        nmi: whether NMI is computed; otherwise it is NaN.

    Returns:
        Recall@1, Recall@2, mAP, mAP@R, NMI and the mean cosine of pairs.

    Raises:
        RetrievalError: for embeddings off the sphere, labels of another length, or no class with two images.
    """
    check_sphere(embeddings)
    if labels.shape != (len(embeddings),):
        raise RetrievalError(f"{len(embeddings)} embeddings need as many labels, not {tuple(labels.shape)}")
    _, inverse, sizes = np.unique(labels.cpu().numpy(), return_inverse=True, return_counts=True)
    classes = torch.from_numpy(inverse).to(embeddings.device)
    relevant = torch.from_numpy(sizes).to(embeddings.device)[classes] - 1
    counted = relevant.gt(0).nonzero().squeeze(1)
    if counted.numel() == 0:
        raise RetrievalError("no class has two images, so no query can find its class")
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
    """NMI in [0,1] of `classes` (N,) and k-means on `embeddings` (N,D) with as many clusters as classes.

    k-means keeps the best of `INITIALIZATIONS` starts by k-means++, drawn from `seed`; of one start where N times the
    number of classes exceeds `LARGE_CLUSTERING`. It runs in one thread, so that the number of threads does not matter.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    truth = classes.cpu().numpy()
    clusters = len(np.unique(truth))
    starts = INITIALIZATIONS if len(truth) * clusters <= LARGE_CLUSTERING else 1
    kmeans = KMeans(clusters, init="k-means++", n_init=starts, max_iter=100, random_state=seed)
    with threadpool_limits(1):
        found = kmeans.fit_predict(embeddings.double().cpu().numpy())
    return float(normalized_mutual_info_score(truth, found))
