"""The worst queries with images and rankings before and after the attack, which is repeated for this."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from hardrank.audit_app.audit.model_audit import ModelAudit
from hardrank.audit_app.audit.weak_spots import WeakQuery
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, Uint8Images
from hardrank.audit_app.images.quantization import quantize
from hardrank.audit_app.ranking.views import movement_between, views_of
from hardrank.models.preprocessing import to_unit
from hardrank.trainer.evaluation.scorecard import Scorecard

SHOWN: Final = 8
"""Number of items of a ranking that are shown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstCase:
    """An attacked image, and a ranking before and after the attack, both by the served model."""

    query: WeakQuery
    attack: str
    """Name of the attack with the weakest figure."""
    benign: Uint8Images
    """(3,S,S)."""
    adversarial: Uint8Images
    """(3,S,S): the attacked image in 8 bits, within the budget."""
    ranked_by: int
    """Gallery row of the query whose ranking is shown: the attacked image itself, except for CA+ and CA-."""
    before: tuple[int, ...]
    """Gallery rows of the first items, by rank."""
    after: tuple[int, ...]
    tracked: tuple[int, ...]
    """Rows whose ranks are tracked: the targets, or the first item before the attack if there are none."""
    aimed: bool
    """Whether these are targets."""
    tracked_before: tuple[int, ...]
    """Their ranks, 1 for the first."""
    tracked_after: tuple[int, ...]
    ranked: int
    """Number of ranked items."""
    moved: float
    """Distance that the embedding moved, 0 to 2."""


def worst_case(part: ModelAudit, query: WeakQuery, card: Scorecard) -> WorstCase:
    """Repeat the attack of the weakest figure of `query`; see `ModelAudit.repeat`."""
    embedded, budget = part.embedded, part.options.robustness
    attacks = part.options.build()
    owner = {figure.key: name for name, attack in attacks.items() for figure in attack.figures}
    name = owner[query.weakest]
    attack, rows = attacks[name], torch.tensor([query.row])
    place = int(np.flatnonzero(card.per_image.rows == query.row)[0])
    targets = torch.from_numpy(card.per_image.columns[f"{name} targets"][place : place + 1])
    result = part.repeat(name, rows, targets)
    benign = embedded.pixels(rows.numpy())[0]
    adversarial = quantize(result.images[0].cpu().numpy(), benign, epsilon=budget.epsilon, norm=budget.norm)
    one, other = _served(embedded, benign), _served(embedded, adversarial)
    aims = tuple(targets[0].tolist())
    gallery = embedded.embeddings.cpu().numpy()
    view = views_of(attack, gallery, own=query.row, targets=aims, benign=one)[0]
    movement = movement_between(view, one, other, SHOWN)
    tracked = tuple(int(row) for row in view.tracked)
    return WorstCase(
        query=query,
        attack=name,
        benign=benign,
        adversarial=adversarial,
        ranked_by=query.row if view.query is None else view.query,
        before=tuple(movement.top_before.tolist()),
        after=tuple(movement.top_after.tolist()),
        tracked=tracked,
        aimed=bool(aims),
        tracked_before=tuple(int(movement.before[row]) for row in tracked),
        tracked_after=tuple(int(movement.after[row]) for row in tracked),
        ranked=movement.ranked,
        moved=float(np.linalg.norm(one - other)),
    )


def _served(embedded: EmbeddedGallery, pixels: Uint8Images) -> npt.NDArray[np.float32]:
    """Embed pixels (3,S,S) with the served model → (D,)."""
    point: npt.NDArray[np.float32] = embedded.subject.serve(to_unit(pixels)[None])[0]
    return point
