"""Random search with squares, for L∞ (Andriushchenko et al., *Square attack*, ECCV 2020)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardrank.audit_app.blackbox.method import Search, SearchState, SearchTask
from hardrank.trainer.attacks.options import AttackError, option
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.squares import AREA, square_steps


@dataclass(frozen=True, kw_only=True)
class SquareSearch(Search):
    """One query per step: a random square is set to ±ε in each channel, and kept if the loss falls."""

    NAME: ClassVar[str] = "square"

    area: float = option(
        AREA, minimum=0.001, maximum=1, unit="of the image", help="area of the first squares; later ones are smaller"
    )

    def steps(self, task: SearchTask) -> Iterator[SearchState]:
        """See `square_steps`. Raises `AttackError` for norms other than L∞."""
        if task.budget.norm is not Norm.LINF:
            raise AttackError("the square search needs an L∞ budget; choose the norm linf, or the search nes or spsa")
        rows = torch.arange(len(task.images), device=task.images.device)

        def query(images: Tensor) -> tuple[Tensor, Tensor]:
            answer = task.oracle.query(images, rows)
            return answer.losses, answer.embeddings

        for state in square_steps(
            query,
            task.images,
            epsilon=task.budget.epsilon,
            ids=task.ids,
            queries=self.queries,
            area=self.area,
            seed=task.seed,
        ):
            yield SearchState(state.images, state.losses, state.embeddings, len(rows))
