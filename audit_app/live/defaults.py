"""Default image and target of a live attack: an image that every model ranks well, and a distant target."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.ranking.movement import rank_items, top_rows

_TRIED: Final = 200
"""Rows that are compared."""


def choose_query(galleries: Sequence[ServedGallery], *, k: int) -> int:
    """Choose a gallery row most of whose first `k` items have its class, for every model; of equals, one at random."""
    gallery = galleries[0].gallery
    rows = np.random.default_rng(0).permutation(len(gallery))[:_TRIED]
    return int(max(rows.tolist(), key=lambda row: min(_right(served, row, k) for served in galleries)))


def choose_target(galleries: Sequence[ServedGallery], query: int) -> int:
    """Choose a row of another class near the middle of every model's ranking of `query`."""
    gallery = galleries[0].gallery
    labels = gallery.labels
    ranks = np.stack([rank_items(s.matrix @ s.matrix[query], left_out=[query]) for s in galleries])
    far = np.abs(ranks / len(gallery) - 0.5).max(axis=0)
    far[(labels == labels[query]) & (len(np.unique(labels)) > 1)] = np.inf
    far[query] = np.inf
    near_middle = np.argsort(far, kind="stable")[: max(1, min(20, np.isfinite(far).sum()))]
    return int(np.random.default_rng([0, query]).choice(near_middle))


def _right(served: ServedGallery, row: int, k: int) -> float:
    """Share of the first `k` items that have the row's class."""
    labels = served.gallery.labels
    found = top_rows(rank_items(served.matrix @ served.matrix[row], left_out=[row]), k)
    return float((labels[found] == labels[row]).mean())
