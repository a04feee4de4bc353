"""Warns of a gallery with classes or images that a model was trained on."""

from dataclasses import replace
from functools import lru_cache
from typing import Final

from pydantic import TypeAdapter, ValidationError

from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.models.errors import HardrankError
from hardrank.serving.store.items import id_of_path
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import DataOptions, relative
from hardrank.trainer.data.demo.specification import Half, classes

_NAMED: Final = 3
"""How many of the classes are named."""


def seen_warning(embedded: EmbeddedGallery) -> str | None:
    """Return a warning if the model was trained on classes or images of the gallery, else None.

    Classes are compared by name, images by their path in the data set. A model without a card, or whose data set is not
    where it was, is not judged.
    """
    gallery, card = embedded.gallery, embedded.subject.card
    if card is None:
        return None
    try:
        data = TypeAdapter(DataOptions).validate_python(card.config.get("data"))
    except (ValidationError, HardrankError):
        return None
    if gallery.data is not None and replace(gallery.data, root=data.root) == data:
        return None  # the test images of its own run
    names, ids = _trained(data)
    rows = [row for row in range(len(gallery)) if gallery.label(row) in names or gallery.ids[row] in ids]
    if not rows:
        return None
    seen = sorted({gallery.label(row) for row in rows} & names)
    more = f" and {len(seen) - _NAMED} more" if len(seen) > _NAMED else ""
    named = f" (classes {', '.join(seen[:_NAMED])}{more})" if seen else ""
    return (
        f"{embedded.subject.name} was trained on {len(rows)} of the {len(gallery)} images, or on classes of the same "
        f"names{named}, so its scores may be higher than on new classes. Its test images are of classes that it has "
        f"not seen: --run {embedded.subject.source}"
    )


@lru_cache(maxsize=8)
def _trained(data: DataOptions) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the training classes, and the ids of the training images; none if they are not known."""
    if data.name == "demo":  # reading it could draw it
        own = data.train_classes is None and data.split_seed is None
        return frozenset(one.name for one in classes() if own and one.half is Half.TRAIN), frozenset()
    try:
        dataset = load_dataset(replace(data, decode_check=False))
    except (HardrankError, OSError):
        return frozenset(), frozenset()
    paths = (relative(path, dataset.root).lstrip("/") for path in dataset.train.paths)
    return frozenset(dataset.train.classes), frozenset(map(id_of_path, paths))
