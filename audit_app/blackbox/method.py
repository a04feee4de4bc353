"""The common part of black-box searches: the budget of queries, the best image, results as of white-box attacks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from hardrank.audit_app.blackbox.oracle import Oracle
from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims, draw_or_check
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.attacks.pgd import ball_around
from hardrank.trainer.attacks.runner import AttackOptions, AttackProgress, AttackResult, check_images, never_cancel
from hardrank.trainer.metric.distances import check_sphere

ELEMENTS: Final = 1 << 22
"""Largest number of distances in memory at once."""
CHUNK: Final = 256
"""Largest number of images in a pass."""


@dataclass(frozen=True)
class BlackBoxResult(AttackResult):
    """The result of a white-box attack, and the number of queries. `passes` is their sum."""

    queries: Tensor
    """(G,): number of queries for each image. Measuring the result is not counted."""

    def columns(self) -> dict[str, Tensor]:
        """Return what is kept of each image (G,…), by name."""
        return {**super().columns(), "queries": self.queries}


@dataclass(frozen=True)
class SearchState:
    """The state of a search after a step; a row for each image."""

    images: Tensor
    """(G,3,S,S): the best so far."""
    losses: Tensor
    """(G,): their losses."""
    embeddings: Tensor
    """(G,D): their embeddings."""
    moving: int
    """How many images are still being improved."""


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """What a search works on."""

    oracle: Oracle
    images: Tensor
    """(G,3,S,S) in [0,1], benign."""
    ids: Tensor
    """(G,): numbers that random draws depend on, besides the seed."""
    budget: AttackOptions
    """ε and the norm."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Search(CheckedOptions, ABC):
    """A black-box attack with its options. Its random draws depend only on seed and image, not on the batch."""

    NAME: ClassVar[str]

    queries: int = option(1000, minimum=1, maximum=1_000_000, unit="queries an image", help="largest number of queries")

    @abstractmethod
    def steps(self, task: SearchTask) -> Iterator[SearchState]:
        """Search step by step, within the budgets of pixels and queries. To stop, take no further steps."""

    @property
    def least_queries(self) -> int:
        """Queries of about one step, from which its duration can be estimated."""
        return 2

    def describe(self) -> dict[str, Any]:
        """Return its name and options, ready for JSON."""
        return {"name": self.NAME, **asdict(self)}

    def oracle(self, attack: Attack, embed: Embed, victims: Victims, gallery: Gallery, targets: Tensor) -> Oracle:
        """Return what the search may ask: here the attack's objective of an embedding."""
        return Oracle(
            embed,
            attack.objective(victims, gallery, targets),
            images=len(victims),
            chunk=min(CHUNK, ELEMENTS // max(1, attack.width * len(gallery))),
            device=victims.own.device,
        )

    def __call__(
        self,
        attack: Attack,
        embed: Embed,
        images: Tensor,
        victims: Victims,
        gallery: Gallery,
        options: AttackOptions,
        *,
        seed: int = 0,
        targets: Tensor | None = None,
        judge: Embed | None = None,
        on_step: Callable[[AttackProgress], None] | None = None,
        cancel: Callable[[], bool] = never_cancel,
    ) -> BlackBoxResult:
        """Attack `images` (G,3,S,S) as `run_attack` does, with queries to `embed`, which needs no gradients.

        Of `options`, only ε and the norm are used. `judge`, if given, embeds the final images, which is not counted
        as queries.

        Raises:
            AttackError: Pixels outside [0,1], or targets that are not in the gallery.
        """
        check_images(images, victims)
        targets = draw_or_check(attack, targets, victims, gallery, seed=seed)

        def measure(embeddings: Tensor) -> Tensor:
            return attack.measure(embeddings, victims, gallery, targets)

        oracle = self.oracle(attack, embed, victims, gallery, targets)
        task = SearchTask(oracle=oracle, images=images, ids=victims.ids, budget=options, seed=seed)
        history = _History(self.queries)
        steps, best, stopped = self.steps(task), images, False
        while not (stopped := cancel()) and (found := next(steps, None)) is not None:
            best = found.images
            history.add(found.losses, oracle.queries)
            if on_step is not None:
                on_step(
                    AttackProgress(
                        0,
                        len(history),
                        found.losses,
                        found.images,
                        found.embeddings,
                        found.moving,
                        measure,
                        oracle.queries.clone(),
                    )
                )
        best = ball_around(images, epsilon=options.epsilon, norm=options.norm).project(best.clone())
        with torch.no_grad():
            embeddings = (judge or embed)(best)
            check_sphere(embeddings, what="the model's embeddings of attacked images")
            before, after = measure(victims.embeddings), measure(embeddings)
        first, late, end = history.summary(embeddings.new_full((len(images),), torch.nan))
        return BlackBoxResult(
            images=best,
            embeddings=embeddings,
            targets=targets,
            before=before,
            after=after,
            first_loss=first,
            late_loss=late,
            end_loss=end,
            blind=torch.zeros(len(images), dtype=torch.bool, device=images.device),
            restart=torch.zeros_like(victims.own),
            image_passes=oracle.queries.clone(),
            cancelled=stopped,
            queries=oracle.queries.clone(),
        )


class _History:
    """Each image's best loss at the start, in the third and in the fourth quarter of the query budget."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._losses: list[Tensor] = []
        self._spent: list[float] = []

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, losses: Tensor, queries: Tensor) -> None:
        self._losses.append(losses.clone())
        self._spent.append(float(queries.max()) / self._budget)

    def summary(self, nothing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self._losses:
            return nothing, nothing, nothing
        late, end = (self._mean(low, high) for low, high in ((0.5, 0.75), (0.75, 1.0)))
        return self._losses[0], late, end

    def _mean(self, low: float, high: float) -> Tensor:
        """Mean over the steps in a part of the budget; if there are none, the last step before it."""
        within = [loss for loss, at in zip(self._losses, self._spent, strict=True) if low < at <= high]
        before = [loss for loss, at in zip(self._losses, self._spent, strict=True) if at <= high]
        return torch.stack(within or before[-1:] or self._losses[:1]).mean(0)
