"""Whether rankings stay when people edit images: Recall@1, overlap@10 and the distance moved, for each edit.

An edit is applied to the image file at its own size, before the preprocessing of the model. The edited image is a
query against the unchanged gallery; its original is left out of the ranking, so that its neighbors count.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from hardrank.audit_app.audit.intervals import mean_intervals
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.images.edits import EDITS
from hardrank.audit_app.results.transform_entries import EditEntry, EditPointEntry, EditsEntry, IntervalEntry
from hardrank.models.decoding import decode, to_rgb
from hardrank.models.preprocessing import image_pixels, to_unit
from hardrank.trainer.evaluation.blocks import cancelled
from hardrank.trainer.evaluation.journal import Columns, Journal
from hardrank.trainer.metric.distances import nearest

OVERLAP_AT: Final = 10
"""How many of the first items are compared."""
MIN_OVERLAP: Final = 0.5
"""Mean overlap from which an edit counts as withstood."""
MAX_RECALL_LOSS: Final = 0.05
"""Largest loss of Recall@1, 0 to 1, with which an edit counts as withstood."""
_NAME: Final = "edits"
_PROBED: Final = 16


def measure_edits(
    embedded: EmbeddedGallery,
    rows: torch.Tensor,
    *,
    seed: int,
    resamples: int,
    journal: Journal,
    report: Callable[[int], None],
    cancel: Callable[[], bool],
) -> EditsEntry:
    """Edit some of the gallery's images with each edit and strength, and compare the rankings.

    Args:
        embedded: The gallery and the model.
        rows: (n,) rows of the images to edit.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.
        journal: Keeps finished images; a later call continues from there.
        report: Called with the number of finished images.
        cancel: Checked before each image.

    Raises:
        CancelledError: `cancel` returned True.
    """
    journal.open(
        {name: list(edit.strengths) for name, edit in EDITS.items()}, embedded.embeddings[:_PROBED].cpu().numpy()
    )
    done: dict[int, Columns] = {**journal.load_rows(_NAME)}
    for i, row in enumerate(rows.tolist()):
        if cancel():
            raise cancelled()
        if row not in done:
            done[row] = _edit_image(embedded, row)
            journal.record(_NAME, np.array([row]), {key: value[None] for key, value in done[row].items()})
        report(i + 1)
    table = {key: np.stack([done[row][key] for row in rows.tolist()]) for key in ("recall", "overlap", "moved")}
    return _summarize(embedded, rows, table, seed=seed, resamples=resamples)


@torch.no_grad()
def _edit_image(embedded: EmbeddedGallery, row: int) -> Columns:
    """Return the results of one image: the original first, then all edits with their strengths, each (1+E,)."""
    original = to_rgb(decode(embedded.gallery.read(row)))
    subject = embedded.subject
    edited = [original, *(edit.apply(original, strength) for edit in EDITS.values() for strength in edit.strengths)]
    pixels = np.stack([image_pixels(image, subject.preprocessing) for image in edited])
    found = subject.judge(torch.from_numpy(to_unit(pixels)).to(subject.device))
    own = torch.full((len(found),), row, device=found.device)
    ranked = nearest(found, embedded.embeddings, own, _compared(embedded))
    kept = (ranked[:, :, None] == ranked[0][None, None, :]).any(2)
    return {
        "recall": embedded.labels[ranked[:, 0]].eq(embedded.labels[row]).double().cpu().numpy(),
        "overlap": kept.double().mean(1).cpu().numpy(),
        "moved": (found - found[0]).norm(dim=1).double().cpu().numpy(),
    }


def _compared(embedded: EmbeddedGallery) -> int:
    return min(OVERLAP_AT, len(embedded) - 1)


def _summarize(
    embedded: EmbeddedGallery, rows: torch.Tensor, table: dict[str, npt.NDArray[Any]], *, seed: int, resamples: int
) -> EditsEntry:
    sizes = np.bincount(embedded.gallery.labels)
    matched = sizes[embedded.gallery.labels[rows.cpu().numpy()]] > 1
    overlap, moved = (mean_intervals(table[key], seed=seed, resamples=resamples) for key in ("overlap", "moved"))
    recall: Sequence[IntervalEntry | None] = [None] * len(overlap)
    if matched.any():
        recall = mean_intervals(table["recall"][matched], seed=seed, resamples=resamples)
    edits, place = {}, 1
    for key, edit in EDITS.items():
        points = [
            EditPointEntry(strength=strength, recall_at_1=recall[i], overlap=overlap[i], moved=moved[i])
            for i, strength in enumerate(edit.strengths, start=place)
        ]
        place += len(points)
        edits[key] = EditEntry(title=edit.title, unit=edit.unit, points=points, withstood=withstood(points, recall[0]))
    return EditsEntry(
        n=len(rows),
        with_match=int(matched.sum()),
        k=_compared(embedded),
        recall_at_1=recall[0],
        min_overlap=MIN_OVERLAP,
        max_recall_loss=MAX_RECALL_LOSS,
        edits=edits,
    )


def withstood(points: Sequence[EditPointEntry], before: IntervalEntry | None) -> float | None:
    """Return the last strength before the first that is not withstood."""
    last = None
    for point in points:
        lost = 0.0 if before is None or point.recall_at_1 is None else before.value - point.recall_at_1.value
        if point.overlap.value < MIN_OVERLAP or lost > MAX_RECALL_LOSS:
            break
        last = point.strength
    return last
