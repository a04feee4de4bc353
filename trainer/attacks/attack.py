"""The interface of an attack: it draws targets, proposes an objective, and measures the resulting ranking."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Objective
from hardrank.trainer.metric.distances import (
    ABSENT,
    Centered,
    check_sphere,
    distance_chunks,
    leave_out,
    nearest,
)

ROUNDING: Final = 0.03
"""A distance below this may be no more than the rounding of a bf16 network."""


class AttackedRole(StrEnum):
    """What the attacked image is in a search."""

    QUERY = "query"
    CANDIDATE = "candidate"


@dataclass(frozen=True)
class Gallery:
    """The benign, fixed gallery: `embeddings` (N,D) on the unit sphere and class `labels` (N,)."""

    embeddings: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_sphere(self.embeddings, what="gallery embeddings")
        if len(self.embeddings) < 2:
            raise AttackError(f"a gallery of {len(self.embeddings)} items has no ranking to attack; use two or more")
        if self.labels.shape != (len(self.embeddings),):
            raise AttackError(
                f"{len(self.embeddings)} gallery items need as many labels, not {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.embeddings)

    @cached_property
    def _centered(self) -> Centered:
        return Centered.of(self.embeddings)

    def distances(self, points: Tensor) -> Tensor:
        """Return the distance of `points` (G,D) to every item, (G,N), differentiable."""
        return self._centered.distances(points)

    def neighbors(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the distances (N,k) and rows (N,k) of the k nearest other items of each item; kept for later calls.

        Raises `AttackError` for fewer than k other items.
        """
        if k not in self._neighbors:
            if k >= len(self):
                raise AttackError(f"{k} neighbors of each item were requested in a gallery of {len(self)} items")
            everyone = torch.arange(len(self), device=self.embeddings.device)
            found = [
                leave_out(distances, everyone[rows]).topk(k, largest=False)
                for rows, distances in distance_chunks(self.embeddings, self.embeddings)
            ]
            self._neighbors[k] = torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])
        return self._neighbors[k]

    @cached_property
    def _neighbors(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}


@dataclass(frozen=True)
class Victims:
    """The images under attack, before they are attacked."""

    embeddings: Tensor
    """(G,D): benign, on the unit sphere."""
    labels: Tensor
    """(G,): their class; `ABSENT` where unknown."""
    own: Tensor
    """(G,): the gallery row of the same image, `ABSENT` where the gallery does not contain it."""
    ids: Tensor
    """(G,): numbers ≥ 0 on which draws depend, besides seed, attack and gallery; gallery rows, for instance."""

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, part: slice | Tensor) -> "Victims":
        return Victims(self.embeddings[part], self.labels[part], self.own[part], self.ids[part])


def victims_in(gallery: Gallery, rows: Tensor) -> Victims:
    """Return the gallery's own images as victims.

    Args:
        gallery: the benign gallery.
        rows: (G,) integer rows of the gallery.

    Raises:
        AttackError: for rows that the gallery does not have.
    """
    if rows.ndim != 1 or rows.is_floating_point() or bool(((rows < 0) | (rows >= len(gallery))).any()):
        raise AttackError(f"queries must be rows 0 … {len(gallery) - 1} of the gallery, given as integers (n,)")
    rows = rows.to(gallery.labels.device, torch.long)
    return Victims(gallery.embeddings[rows], gallery.labels[rows], rows, rows)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A reported result: the mean of a number per image."""

    key: str
    """Its name in result tables, as `ES:D`."""
    unit: str
    """`%`, or empty for a cosine, a distance or a correlation."""
    help: str
    """What is measured."""
    attacked: float
    """The value when the attack has succeeded completely; scores 0."""
    resisted: float
    """The value that scores 100 in ERS."""
    recall: bool = False
    """Whether it is Recall@1 under attack, and so counts towards the worst case of Recall@1."""

    @property
    def higher_is_robust(self) -> bool:
        """Whether a more robust model has a higher value."""
        return self.resisted > self.attacked

    def score(self, value: Tensor) -> Tensor:
        """Map values to the scores 0 … 100 that ERS averages."""
        return 100 * (value - self.attacked) / (self.resisted - self.attacked)


class Attack(Protocol):
    """An attack on a ranking: a frozen dataclass whose fields are its options.

    Its file also declares it for command lines and pages (see `AttackKind`).
    """

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def role(self) -> AttackedRole:
        """Whether the attacked image is the query or a candidate."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What is reported; the first one decides which restart counts for an image."""

    @property
    def target_count(self) -> int:
        """T, how many gallery rows are drawn for an image; 0 when none is needed."""

    @property
    def width(self) -> int:
        """How many rows of N distances an image needs at once, for the limit on memory."""

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Draw targets, rows of the gallery (G,T).

        They depend on seed, attack, gallery and the victim's id alone, never on the batch.

        Raises `AttackError` when the gallery cannot provide them.
        """

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> Objective:
        """Return the loss that the engine minimizes, a function of embeddings (G,1,D)."""

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Return the figures (G,F) of the victims at `embeddings` (G,D), per image, in their units."""


@runtime_checkable
class TriesTargets(Protocol):
    """An attack that is run once for each of its targets, until it succeeds; each image keeps its worst run."""

    def objectives(self, victims: Victims, gallery: Gallery, targets: Tensor) -> Sequence[Objective]:
        """Return the loss of each run, T of them; the attack's `objective` is for searches that run only once."""


def draw_each(
    victims: Victims, *, seed: int, attack: str, choose: Callable[[np.random.Generator], NDArray[np.int64]]
) -> Tensor:
    """Call `choose` with a random generator for each victim; returns (G,T) on the victims' device."""
    stream = zlib.crc32(attack.encode())
    chosen = [choose(np.random.default_rng([seed, stream, int(i)])) for i in victims.ids.tolist()]
    return torch.tensor(np.asarray(chosen, dtype=np.int64)).to(victims.own.device)


def draw_uniform(victims: Victims, gallery: Gallery, *, seed: int, attack: str, count: int) -> Tensor:
    """Draw `count` rows of the whole gallery for each victim, with replacement; returns (G,count)."""
    size = len(gallery)
    if count > size:
        raise AttackError(f"{attack}: {count} targets were requested from a gallery of {size} items")
    return draw_each(victims, seed=seed, attack=attack, choose=lambda rng: rng.integers(size, size=count))


def draw_from_top(
    victims: Victims,
    gallery: Gallery,
    *,
    seed: int,
    attack: str,
    count: int,
    share: float,
    replace: bool,
    after: int = 0,
) -> Tensor:
    """Draw `count` of the int(share·N) items nearest to each victim, itself left out; returns (G,count).

    Args:
        victims: the images under attack.
        gallery: the benign gallery of N items.
        seed: of the draw.
        attack: name of the attack, part of the random stream.
        count: targets per victim.
        share: in [0,1]; at least one item counts as the top where `share` > 0 (N < 100 for 1 %).
        replace: whether an item may be drawn twice.
        after: how many of the nearest items are left out.

    Raises:
        AttackError: when fewer than `count` items remain.
    """
    top = max(int(share * len(gallery)), 1 if share > 0 else 0)
    room = top - after
    if count > (len(gallery) if replace else room) or room < 1:
        raise AttackError(
            f"{attack}: {count} targets were requested from the {max(room, 0)} items in the top {100 * share:g} % "
            f"of a gallery of {len(gallery)}; request fewer, raise `share`, or use a larger gallery"
        )
    places = draw_each(
        victims, seed=seed, attack=attack, choose=lambda rng: rng.choice(room, size=count, replace=replace)
    )
    order = nearest(victims.embeddings, gallery.embeddings, victims.own, top)
    return order.gather(1, places + after)


def check_targets(targets: Tensor, victims: Victims, gallery: Gallery, count: int) -> Tensor:
    """Return the caller's `targets` as (G,`count`) on the gallery's device; raises `AttackError` if invalid."""
    shaped = targets[:, None] if targets.ndim == 1 else targets
    if shaped.shape != (len(victims), count) or shaped.is_floating_point():
        raise AttackError(
            f"targets must be integers of shape ({len(victims)}, {count}), not {shaped.dtype} {tuple(targets.shape)}"
        )
    if bool(((shaped < 0) | (shaped >= len(gallery))).any()):
        raise AttackError(f"targets must be rows 0 … {len(gallery) - 1} of the gallery")
    return shaped.to(gallery.labels.device, torch.long)


def draw_or_check(attack: Attack, targets: Tensor | None, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
    """Return the caller's `targets`, checked (see `check_targets`), or draw them from `seed` if there are none."""
    if targets is None:
        return attack.draw(victims, gallery, seed=seed)
    return check_targets(targets, victims, gallery, attack.target_count)


def no_targets(victims: Victims) -> Tensor:
    """Return the targets of an attack that needs none, (G,0)."""
    return victims.own.new_empty((len(victims), 0))


def items_of_class(victims: Victims, gallery: Gallery, attack: str, *, with_own: bool) -> Tensor:
    """Return which items have the class of each victim, (G,N) bool; `with_own` says whether its own copy counts.

    Raises `AttackError` for a victim whose class the gallery lacks.
    """
    found = gallery.labels == victims.labels[:, None]
    if not bool(found.any(1).all()):
        missing = victims.labels[found.any(1).logical_not()][0]
        raise AttackError(f"{attack}: the gallery has no item of the query's class {int(missing)}")
    if not with_own:
        present = victims.own.ne(ABSENT).nonzero().squeeze(1)
        found[present, victims.own[present]] = False
    return found


def recall_figure(key: str) -> Figure:
    """Declare Recall@1 under attack as a figure."""
    return Figure(
        key=key, unit="%", help="Recall@1, the image's own copy left out", attacked=0.0, resisted=100.0, recall=True
    )


def measure_recall(embeddings: Tensor, victims: Victims, gallery: Gallery) -> Tensor:
    """Return 100 where the nearest item, the own copy left out, has the victim's label, else 0; (G,1)."""
    first = leave_out(gallery.distances(embeddings), victims.own).argmin(1)
    return 100.0 * gallery.labels[first].eq(victims.labels)[:, None].to(embeddings.dtype)


def rank_percent(distances: Tensor, targets: Tensor) -> Tensor:
    """Return the mean share (G,), in %, of `distances` (G,N) that are smaller than those of `targets` (G,M)."""
    ahead = distances[:, None] < distances.gather(1, targets)[..., None]
    return 100.0 * ahead.sum(2).to(distances.dtype).mean(1) / distances.shape[1]


def nearest_unmatched(victims: Victims, gallery: Gallery, labels: Tensor) -> Tensor:
    """Return distances to the gallery (G,N), infinite at items of class `labels` (G,) and at the own copy."""
    distances = leave_out(gallery.distances(victims.embeddings), victims.own)
    return distances.masked_fill_(gallery.labels == labels[:, None], torch.inf)


def require_two_classes(gallery: Gallery, attack: str) -> None:
    """Raise `AttackError` when no item of the gallery is unmatched."""
    if bool(gallery.labels.eq(gallery.labels[0]).all()):
        raise AttackError(
            f"{attack}: the gallery has one class ({int(gallery.labels[0])}), so no item is unmatched; "
            "use a gallery with two classes or more"
        )
