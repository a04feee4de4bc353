"""The only way in which a black-box attack learns of a model; it counts."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.pgd import Objective
from hardrank.trainer.metric.distances import check_sphere

_LATER: Final = 1
"""The step that objectives are told: they know a first step that a gradient can take and a question cannot."""


@dataclass(frozen=True)
class OracleAnswer:
    """What the model's embeddings say of some images."""

    losses: Tensor
    """(n,), of the attack's objective."""
    embeddings: Tensor
    """(n,D)."""


class Oracle:
    """A model that may be asked for embeddings, and what an attack makes of them: its loss."""

    def __init__(self, model: Embed, objective: Objective, *, images: int, chunk: int, device: torch.device) -> None:
        """Ask `model` about `images` images under attack, at most `chunk` at a time."""
        self._model = model
        self._objective = objective
        self.chunk = max(1, chunk)
        """How many images are asked about at once."""
        self.queries = torch.zeros(images, dtype=torch.long, device=device)
        """(G,): questions about each image so far."""

    @torch.no_grad()
    def ask(self, images: Tensor, rows: Tensor) -> OracleAnswer:
        """Ask about `images` (n,3,S,S), variants of the attacked images `rows` (n,), which may repeat."""
        losses, embeddings = [], []
        for begin in range(0, len(rows), self.chunk):
            part = slice(begin, begin + self.chunk)
            found = self._model(images[part])
            check_sphere(found, what="the model's answers")
            self.queries.index_add_(0, rows[part], torch.ones_like(rows[part]))
            losses.append(self._objective(found[:, None], rows[part], _LATER))
            embeddings.append(found)
        return OracleAnswer(torch.cat(losses), torch.cat(embeddings))
