"""Losses of a visible list: what an attacker minimizes who sees the first k ids of a search, and nothing else.

The goals are relative ranks after Zhou et al., *Practical relative order attack in deep ranking*, ICCV 2021
(arXiv 2103.05248), and weighted overlaps after Li et al., *QAIR*, CVPR 2021 (arXiv 2103.02927).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import torch
from torch import Tensor

from hardrank.audit_app.blackbox.neighborhood import ListReader, explore
from hardrank.trainer.attacks.direction import Direction
from hardrank.trainer.attacks.options import AttackError

HEAD: Final = 20
"""Number of first items of a list that stand for it."""
_OUTSIDE: Final = -1


class Aim(StrEnum):
    """What an attack wants of the visible list."""

    RAISE = "raise"
    """Its targets rise."""
    LOWER = "lower"
    """Its targets fall."""
    IMITATE = "imitate"
    """The list of its target appears: the first items of that list rise."""
    LEAVE = "leave"
    """The benign list disappears: its first items fall."""
    ORDER = "order"
    """Its targets appear in their order."""


AIMS: Final[Mapping[str, Aim]] = {
    "QA+": Aim.RAISE,
    "QA-": Aim.LOWER,
    "CA+": Aim.RAISE,
    "CA-": Aim.LOWER,
    "TMA": Aim.IMITATE,
    "ES": Aim.LEAVE,
    "LTM": Aim.LEAVE,
    "GTM": Aim.RAISE,
    "GTT": Aim.LOWER,
    "MARGIN": Aim.RAISE,
    "ORDER": Aim.ORDER,
}
"""By attack. Attacks on a candidate search with it: its neighbors are the queries whose neighbor it is."""


_HEADS: Final = frozenset({Aim.IMITATE, Aim.LEAVE})
"""Aims whose items are the first of a list."""


@dataclass(frozen=True, kw_only=True)
class RankGoal:
    """The loss of visible lists, in [0,1]; see `losses`."""

    items: Tensor
    """(G,M) rows of the gallery that rise or fall."""
    weights: Tensor
    """(G,M), of sum 1."""
    direction: Direction
    sources: Tensor
    """(G,M): which row of `paths[image]` leads to an item."""
    paths: Tensor | None
    """(G,S,N+1): length in [0,1] of the path from each item of the gallery, and last from an unknown one, to the source
    of an item; None if the whole gallery is visible."""
    size: int
    """N, items of the gallery."""
    ordered: bool = False
    """Whether the items have to appear in this order as well."""

    def losses(self, lists: Tensor, rows: Tensor) -> Tensor:
        """Return the loss (n,) of visible `lists` (n,k) that belong to the images `rows` (n,).

        Lists hold rows of the gallery, best first, and N for items that the gallery lacks.
        """
        items = self.items[rows]
        found = (self.relative_ranks(lists, rows) * self.weights[rows]).sum(1)
        if self.direction is Direction.LOWER:
            found = 1 - found
        if self.ordered:
            found = (found + (1 - short_range_correlation(positions_in(lists, items, self.size))) / 2) / 2
        return found

    def relative_ranks(self, lists: Tensor, rows: Tensor) -> Tensor:
        """Return the ranks (n,M) of the items in [0,1]: position / N where visible.

        An item outside the list is at k/N + (1 − k/N) δ, where δ is the mean length of the paths from the visible
        items to it, those at the top counting most.
        """
        found = positions_in(lists, self.items[rows], self.size)
        ranks = found.to(self.weights.dtype) / self.size
        outside = found == _OUTSIDE
        if not bool(outside.any()):
            return ranks
        hidden = min(1.0, lists.shape[1] / self.size)
        way: Tensor | float = 1.0
        if self.paths is not None:
            discounts = _discounts(lists.shape[1], lists)
            paths = self.paths[rows].gather(2, lists[:, None].expand(-1, self.paths.shape[1], -1))
            way = (paths @ (discounts / discounts.sum())).gather(1, self.sources[rows])
        return torch.where(outside, hidden + (1 - hidden) * way, ranks)


def positions_in(lists: Tensor, items: Tensor, size: int) -> Tensor:
    """Return the positions (n,M), from 0, of `items` (n,M) in `lists` (n,k) of rows up to `size`; −1: not in it."""
    places = lists.new_full((len(lists), size + 1), _OUTSIDE)
    numbers = torch.arange(lists.shape[1], device=lists.device).expand_as(lists)
    places.scatter_(1, lists, numbers)
    return places.gather(1, items)


def short_range_correlation(positions: Tensor) -> Tensor:
    """Return the short-range ranking correlation τ_S (n,) of items at `positions` (n,M), −1 for items outside the list.

    The mean over pairs i < j of 1 if both are visible and i comes before j, else −1 (section 3.2 of the paper).
    """
    count = positions.shape[1]
    i, j = torch.triu_indices(count, count, offset=1, device=positions.device)
    first, second = positions[:, i], positions[:, j]
    right = (first != _OUTSIDE) & (second != _OUTSIDE) & (first < second)
    return torch.where(right, 1.0, -1.0).mean(1)


def _discounts(count: int, like: Tensor) -> Tensor:
    """Return the weights (count,) of the places of a list, 1 / log₂(place + 2), as in DCG."""
    return 1 / torch.log2(torch.arange(count, device=like.device) + 2.0)


@dataclass(frozen=True, kw_only=True)
class PreparedGoal:
    """A goal, and what reading lists for it has cost."""

    goal: RankGoal
    spent: Tensor
    """(G,): queries for each image."""


def prepare_goal(attack: str, targets: Tensor, reader: ListReader, *, explored: int) -> PreparedGoal:
    """Make the goal of an attack, reading the lists of gallery items that it needs.

    Args:
        attack: Its name, a key of `AIMS`.
        targets: (G,T) rows of the gallery.
        reader: Reads lists; each counts as a query.
        explored: If only part of the gallery is visible: the number of lists, for each image, that are read to learn
            which items lead to the targets.

    Raises:
        AttackError: An attack without a goal on ranks.
    """
    if attack not in AIMS:
        raise AttackError(f"{attack} has no goal that a search by ranks alone can follow; use {', '.join(AIMS)}")
    aim = AIMS[attack]
    spent = torch.zeros(len(targets), dtype=torch.long, device=targets.device)
    if aim in _HEADS:
        read = reader.benign() if aim is Aim.LEAVE else reader.lists_of(targets[:, 0])
        spent += 1
        items = read[:, :HEAD]
        weights = _discounts(items.shape[1], items).expand(items.shape)
        sources = torch.zeros_like(items)
        starts = [[[(item, place) for place, item in enumerate(one)]] for one in read.tolist()]
    else:
        items = targets
        weights = torch.ones(targets.shape, device=targets.device)
        sources = torch.arange(targets.shape[1], device=targets.device).expand_as(targets)
        starts = [[[(item, 0)] for item in one] for one in targets.tolist()]
    paths = None
    if reader.visible < reader.size:
        paths, lists = explore(reader, starts, lists=explored)
        paths, spent = paths.to(targets.device), spent + lists.to(targets.device)
    direction = Direction.LOWER if aim in {Aim.LOWER, Aim.LEAVE} else Direction.RAISE
    goal = RankGoal(
        items=items,
        weights=weights / weights.sum(1, keepdim=True),
        direction=direction,
        sources=sources,
        paths=paths,
        size=reader.size,
        ordered=aim is Aim.ORDER,
    )
    return PreparedGoal(goal=goal, spent=spent)
