"""What an attack is shown on before anybody chose: an image that every model answers well, and a far target."""

from collections.abc import Sequence

import numpy as np

from hardrank.audit_app.gallery.served import Served
from hardrank.audit_app.ranking.movement import head, rank_items

_TRIED = 200


def choose_query(scenes: Sequence[Served], *, k: int, seed: int = 0) -> int:
    """Choose the gallery row whose first `k` answers are most of its class, by every model; of equals by seed."""
    collection = scenes[0].scene.collection
    rows = np.random.default_rng(seed).permutation(len(collection))[:_TRIED]
    return int(max(rows.tolist(), key=lambda row: min(_right(served, row, k) for served in scenes)))


def choose_target(scenes: Sequence[Served], query: int, *, seed: int = 0) -> int:
    """Choose a row of another class that stands in the middle of every model's ranking of `query`."""
    collection = scenes[0].scene.collection
    labels = collection.labels
    ranks = np.stack([rank_items(s.matrix @ s.matrix[query], left_out=[query]) for s in scenes])
    far = np.abs(ranks / len(collection) - 0.5).max(axis=0)
    far[(labels == labels[query]) & (len(np.unique(labels)) > 1)] = np.inf
    far[query] = np.inf
    near_middle = np.argsort(far, kind="stable")[: max(1, min(20, np.isfinite(far).sum()))]
    return int(np.random.default_rng([seed, query]).choice(near_middle))


def _right(served: Served, row: int, k: int) -> float:
    """Share of the first `k` answers that are of the row's class."""
    labels = served.scene.collection.labels
    found = head(rank_items(served.matrix @ served.matrix[row], left_out=[row]), k)
    return float((labels[found] == labels[row]).mean())
