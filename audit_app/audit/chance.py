"""Warns of a model whose retrieval is no better than chance, before it is attacked."""

from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.trainer.evaluation.diagnostics import retrieves_at_chance


def chance_warning(embedded: EmbeddedGallery) -> str | None:
    """Return a warning if the model retrieves benign images no better than at random, else None.

    A robustness score of such a model says nothing: often its input has the wrong scale.
    """
    at_chance = retrieves_at_chance(embedded.tensors)
    if at_chance is None:
        return None
    found, chance = at_chance
    return (
        f"{embedded.subject.name}: Recall@1 on benign images is {found:.3f}, and chance is {chance:.3f}. Check the "
        "pixel values that the model expects (--scale for ONNX files), its weights, how images are prepared "
        "(--input-size, --resize), and the classes of the gallery: a score of this model says nothing about robustness."
    )
