"""What an attack is: it draws targets, proposes an objective, and measures what became of the ranking."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Objective
from hardrank.trainer.metric.distances import check_sphere, leave_out, nearest, pairwise_distances

ROUNDING: Final = 0.03
"""A distance below this may be no more than the rounding of a bf16 network."""


@dataclass(frozen=True)
class Gallery:
    """The benign, fixed gallery: `embeddings` (N,D) on the unit sphere and class `labels` (N,)."""

    embeddings: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_sphere(self.embeddings, what="gallery embeddings")
        if len(self.embeddings) < 2:
            raise AttackError(f"a gallery of {len(self.embeddings)} items has no ranking to attack; give two or more")
        if self.labels.shape != (len(self.embeddings),):
            raise AttackError(
                f"{len(self.embeddings)} gallery items need as many labels, not {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.embeddings)

    @cached_property
    def _squares(self) -> Tensor:
        return self.embeddings.square().sum(1)

    def distances(self, points: Tensor) -> Tensor:
        """d of `points` (G,D) to every item → (G,N), differentiable."""
        return pairwise_distances(points, self.embeddings, squares=self._squares)


@dataclass(frozen=True)
class Victims:
    """The images under attack, as the ranking sees them when untouched."""

    embeddings: Tensor
    """(G,D): benign, on the unit sphere."""
    labels: Tensor
    """(G,): their class; `ABSENT` where unknown."""
    own: Tensor
    """(G,): the gallery row of the same image, `ABSENT` where the gallery has no copy."""
    ids: Tensor
    """(G,): numbers ≥ 0 that draws depend on, besides seed, attack and gallery: rows, or any."""

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, part: slice) -> "Victims":
        return Victims(self.embeddings[part], self.labels[part], self.own[part], self.ids[part])


def victims_in(gallery: Gallery, rows: Tensor) -> Victims:
    """Take the gallery's own images `rows` (G,) as victims; raises `AttackError` for other rows."""
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
    help: str
    attacked: float
    """The value when the attack has succeeded wholly; scores 0."""
    resisted: float
    """The value that scores 100 in ERS."""

    def score(self, value: Tensor) -> Tensor:
        """Map values to the resistance 0 … 100 that ERS averages."""
        return 100 * (value - self.attacked) / (self.resisted - self.attacked)


class Attack(Protocol):
    """An attack on a ranking, with its options; frozen."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What is reported; the first decides which of several restarts was worst."""

    @property
    def target_count(self) -> int:
        """T, how many gallery rows are drawn for an image; 0 when the image alone is enough."""

    @property
    def width(self) -> int:
        """How many rows of distances to the gallery an image needs at once."""

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Draw targets, rows of the gallery (G,T), by seed, attack, gallery and id alone, never by the batch.

        Raises `AttackError` when the gallery cannot provide them.
        """

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> Objective:
        """Give the loss that the engine minimises, of embeddings (G,1,D)."""

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Give the figures (G,F) of the victims as moved to `embeddings` (G,D), per image, in their units."""


def draw_each(
    victims: Victims, *, seed: int, attack: str, choose: Callable[[np.random.Generator], NDArray[np.int64]]
) -> Tensor:
    """Call `choose` with a generator of each victim's own → (G,T) on the victims' device."""
    stream = zlib.crc32(attack.encode())
    chosen = [choose(np.random.default_rng([seed, stream, int(i)])) for i in victims.ids.tolist()]
    return torch.tensor(np.asarray(chosen, dtype=np.int64)).to(victims.own.device)


def draw_uniform(victims: Victims, gallery: Gallery, *, seed: int, attack: str, count: int) -> Tensor:
    """Draw `count` rows of the whole gallery for each victim, independently → (G,count)."""
    size = len(gallery)
    if count > size:
        raise AttackError(f"{attack}: {count} targets were asked of a gallery of {size} items")
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
    """Draw `count` of the int(share·N) items nearest to each victim after itself → (G,count).

    In a gallery too small for one such item (N < 100 for 1 %), the nearest one is the top.
    `after` leaves out the first few of those. Raises `AttackError` when too few remain.
    """
    top = max(int(share * len(gallery)), 1 if share > 0 else 0)
    room = top - after
    if count > (len(gallery) if replace else room) or room < 1:
        raise AttackError(
            f"{attack}: {count} targets were asked of the {max(room, 0)} items in the top {100 * share:g} % "
            f"of a gallery of {len(gallery)}; ask for fewer, raise `share`, or give a larger gallery"
        )
    places = draw_each(
        victims, seed=seed, attack=attack, choose=lambda rng: rng.choice(room, size=count, replace=replace)
    )
    order = nearest(victims.embeddings, gallery.embeddings, victims.own, top)
    return order.gather(1, places + after)


def check_targets(targets: Tensor, victims: Victims, gallery: Gallery, count: int) -> Tensor:
    """Give the caller's `targets` as (G,`count`) on the gallery's device, or raise `AttackError`."""
    shaped = targets[:, None] if targets.ndim == 1 else targets
    if shaped.shape != (len(victims), count) or shaped.is_floating_point():
        raise AttackError(
            f"targets must be integers of shape ({len(victims)}, {count}), not {shaped.dtype} {tuple(targets.shape)}"
        )
    if bool(((shaped < 0) | (shaped >= len(gallery))).any()):
        raise AttackError(f"targets must be rows 0 … {len(gallery) - 1} of the gallery")
    return shaped.to(gallery.labels.device, torch.long)


def no_targets(victims: Victims) -> Tensor:
    """Targets of an attack that needs none: (G,0)."""
    return victims.own.new_empty((len(victims), 0))


def recall_figure(key: str) -> Figure:
    """Declare Recall@1 as a result."""
    return Figure(key=key, unit="%", help="Recall@1, the image's own copy left out", attacked=0.0, resisted=100.0)


def measure_recall(embeddings: Tensor, victims: Victims, gallery: Gallery) -> Tensor:
    """Give 100 where the nearest item, the own copy left out, has the victim's label, else 0 → (G,1)."""
    first = leave_out(gallery.distances(embeddings), victims.own).argmin(1)
    return 100.0 * gallery.labels[first].eq(victims.labels)[:, None].to(embeddings.dtype)


def rank_percent(distances: Tensor, targets: Tensor) -> Tensor:
    """Mean share of the gallery nearer than each of `targets` (G,M), by `distances` (G,N), in % → (G,)."""
    ahead = distances[:, None] < distances.gather(1, targets)[..., None]
    return 100.0 * ahead.sum(2).to(distances.dtype).mean(1) / distances.shape[1]


def nearest_unmatched(victims: Victims, gallery: Gallery, labels: Tensor) -> Tensor:
    """Distances to the gallery (G,N), infinite at items of class `labels` (G,) and at the own copy."""
    distances = leave_out(gallery.distances(victims.embeddings), victims.own)
    return distances.masked_fill_(gallery.labels == labels[:, None], torch.inf)


def require_two_classes(gallery: Gallery, attack: str) -> None:
    """Raise `AttackError` when no item of the gallery is unmatched."""
    if bool(gallery.labels.eq(gallery.labels[0]).all()):
        raise AttackError(
            f"{attack}: the gallery has one class ({int(gallery.labels[0])}), so no item is unmatched; "
            "give a gallery of two classes or more"
        )
