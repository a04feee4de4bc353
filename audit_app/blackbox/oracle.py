"""The access of a black-box attack to a model, with a count of queries."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.pgd import Objective
from hardrank.trainer.metric.distances import check_sphere

_LATER: Final = 1
"""Step number for objectives: those that treat the first gradient step specially must not do so here."""


@dataclass(frozen=True)
class OracleAnswer:
    """The answer to queries."""

    losses: Tensor
    """(n,), values of the attack's objective."""
    embeddings: Tensor
    """(n,D)."""


class Oracle:
    """A model that is queried for embeddings, and the attack's loss of them."""

    def __init__(self, model: Embed, objective: Objective, *, images: int, chunk: int, device: torch.device) -> None:
        """Query `model` about `images` attacked images, at most `chunk` at a time."""
        self._model = model
        self._objective = objective
        self.chunk = max(1, chunk)
        """How many images are queried at once."""
        self.queries = torch.zeros(images, dtype=torch.long, device=device)
        """(G,): queries about each image so far."""

    @torch.no_grad()
    def query(self, images: Tensor, rows: Tensor) -> OracleAnswer:
        """Query `images` (n,3,S,S), variants of the attacked images `rows` (n,), which may repeat."""
        losses, embeddings = [], []
        for begin in range(0, len(rows), self.chunk):
            part = slice(begin, begin + self.chunk)
            found = self._model(images[part])
            check_sphere(found, what="the model's embeddings")
            self.queries.index_add_(0, rows[part], torch.ones_like(rows[part]))
            losses.append(self._objective(found[:, None], rows[part], _LATER))
            embeddings.append(found)
        return OracleAnswer(torch.cat(losses), torch.cat(embeddings))
