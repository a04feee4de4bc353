"""Warns of a model whose retrieval is no better than chance, before it is attacked."""

from typing import Final

import torch

from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.trainer.evaluation.robustness import sample_queries
from hardrank.trainer.metric.distances import recall_at_1

_QUERIES: Final = 1000
_DEVIATIONS: Final = 3.0
"""Standard deviations of the mean of random retrieval above which a model is better than chance."""


@torch.no_grad()
def chance_warning(embedded: EmbeddedGallery) -> str | None:
    """Return a warning if the model retrieves benign images no better than at random, else None.

    Recall@1 of a seeded sample of images is compared with that of random rankings: (n − 1) / (N − 1) for an image of a
    class of n among N. A robustness score of such a model says nothing: often its input has the wrong scale.
    """
    labels = embedded.labels
    counts = labels.bincount()[labels]
    rows = torch.nonzero(counts > 1).squeeze(1)
    if not len(rows):
        return None
    rows = rows[sample_queries(len(rows), _QUERIES, seed=0).to(rows.device)]
    points = embedded.embeddings
    found = float(recall_at_1(points[rows], points, labels, rows, labels[rows]).double().mean())
    chance = float(((counts[rows] - 1) / (len(labels) - 1)).double().mean())
    spread = (chance * (1 - chance) / len(rows)) ** 0.5
    if chance == 1 or found > chance + _DEVIATIONS * spread:
        return None
    return (
        f"{embedded.subject.name}: Recall@1 on benign images is {found:.3f}, and chance is {chance:.3f}. Check the "
        "pixel values that the model expects (--scale for ONNX files), its weights, how images are prepared "
        "(--input-size, --resize), and the classes of the gallery: a score of this model says nothing about robustness."
    )
