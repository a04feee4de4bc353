"""Which attacks need ids alone, how their targets are drawn, and what is measured."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hardrank.audit_app.blackbox.rank_goal import positions_in, short_range_correlation
from hardrank.audit_app.errors import AuditError

FIRST: Final = 10
"""Number of first items of lists that are compared."""
_TOP_SHARE: Final = 0.01

RANK_FIGURES: Final[Mapping[str, str]] = {
    "QA+": "mean rank of the targets, in % of the items",
    "QA-": "mean rank of the targets, in % of the items",
    "TMA": f"share of the target's first {FIRST} results among the query's",
    "ES": f"share of the first {FIRST} results that stay",
    "ORDER": "short-range ranking correlation of the desired order",
}
"""What is measured, by attack. As in the scorecard, the image's own copy counts as an item."""


def draw_targets(benign: Tensor, rows: Sequence[int], items: int, *, attack: str, count: int, seed: int) -> Tensor:
    """Draw targets (G,T) from the rows of a gallery; they depend on seed, attack and image alone.

    QA+ and TMA: any other item. QA−: from the first 1 % of the benign list. ORDER: an order of its first items.

    Args:
        benign: (G,k) lists of the benign images.
        rows: The images.
        items: Number of rows of the gallery.
        attack: A key of `RANK_FIGURES`.
        count: T, at least 1; ES has no targets, whatever the count.
        seed: Of the draw.

    Raises:
        AuditError: Too few items.
    """
    if attack == "ES":
        return torch.zeros(len(rows), 0, dtype=torch.long)
    drawn = []
    for found, row in zip(benign.tolist(), rows, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(attack.encode()), int(row)])
        near = [item for item in found if item != row and item < items]
        if attack == "QA-":
            pool = np.array(near[: max(count, int(_TOP_SHARE * items))])
        elif attack == "ORDER":
            pool = np.array(near[:count])
        else:
            pool = np.delete(np.arange(items), row)
        if len(pool) < count:
            raise AuditError(f"{attack}: {count} targets were requested, and {len(pool)} items are visible")
        drawn.append(rng.choice(pool, size=count, replace=False))
    return torch.from_numpy(np.stack(drawn).astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class MeasuredLists:
    """The figure of each list."""

    values: Tensor
    """(G,)."""
    hidden: Tensor
    """(G,) bool: a target is outside the list, so the rank is at least the value."""


def measure_lists(lists: Tensor, targets: Tensor, reference: Tensor, *, attack: str, size: int) -> MeasuredLists:
    """Measure the figure of an attack.

    Args:
        lists: (G,k), as long as the system shows them.
        targets: (G,T) rows of the gallery.
        reference: (G,k') the lists of the target (TMA) or of the benign images (ES).
        attack: A key of `RANK_FIGURES`.
        size: N.
    """
    hidden = torch.zeros(len(lists), dtype=torch.bool)
    if attack in {"TMA", "ES"}:
        shared = (lists[:, :FIRST, None] == reference[:, None, :FIRST]) & (lists[:, :FIRST, None] < size)
        return MeasuredLists(values=shared.any(2).float().sum(1) / min(FIRST, lists.shape[1]), hidden=hidden)
    positions = positions_in(lists, targets, size)
    if attack == "ORDER":
        return MeasuredLists(values=short_range_correlation(positions), hidden=hidden)
    outside = positions < 0
    ranks = torch.where(outside, lists.shape[1], positions).float()
    return MeasuredLists(values=100 * ranks.mean(1) / size, hidden=outside.any(1))
