"""The attacked image: an item of the gallery, or a file."""

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.images.exact_png import Uint8Image
from hardrank.audit_app.ranking.movement import rank_items, top_rows
from hardrank.models.preprocessing import file_pixels, to_unit
from hardrank.trainer.attacks.attack import Victims, victims_in
from hardrank.trainer.metric.distances import ABSENT


@dataclass(frozen=True, kw_only=True)
class Victim:
    """The attacked image. Raises `AuditError` unless exactly one of `id` and `data` is given."""

    id: str | None = None
    """Id of an item of the gallery."""
    data: bytes | None = None
    """Bytes of a file that is not in the gallery."""
    label: str | None = None
    """Class of such a file; None for that of the nearest item."""

    def __post_init__(self) -> None:
        if (self.id is None) == (self.data is None):
            raise AuditError("choose an item of the gallery or a file to attack, not both")

    @property
    def title(self) -> str:
        """A name for display."""
        return self.id or f"uploaded image {hashlib.sha256(self.data or b'').hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedVictim:
    """The attacked image, prepared for one model."""

    own: int | None
    """Its gallery row; None if it is not in the gallery."""
    pixels: Uint8Image
    """(3,S,S): the benign image."""
    canvas: Uint8Image
    """(3,R,R): the square that it is the center of."""
    victims: Victims
    """The image for attacks, a batch of one."""


def prepare_victim(victim: Victim, served: ServedGallery) -> PreparedVictim:
    """Prepare an image for a model.

    Raises:
        GalleryError: The id does not exist.
        UndecodableImageError: The file is not an image.
        AuditError: The class does not exist.
    """
    embedded = served.embedded
    if victim.id is not None:
        row = embedded.gallery.row(victim.id)
        pixels = served.picture(row)
        return PreparedVictim(
            own=row,
            pixels=pixels,
            canvas=served.canvas(served.file(row), pixels),
            victims=victims_in(embedded.tensors, torch.tensor([row])),
        )
    assert victim.data is not None
    pixels = file_pixels(victim.data, embedded.subject.preprocessing)
    device = embedded.embeddings.device
    with torch.no_grad():
        point = embedded.subject.judge(torch.from_numpy(to_unit(pixels))[None].to(device))
    victims = Victims(
        embeddings=point,
        labels=torch.tensor([_label(victim, served, pixels)], device=device),
        own=torch.tensor([ABSENT], device=device),
        ids=torch.tensor([zlib.crc32(victim.data)], device=device),
    )
    return PreparedVictim(own=None, pixels=pixels, canvas=served.canvas(victim.data, pixels), victims=victims)


def _label(victim: Victim, served: ServedGallery, pixels: Uint8Image) -> int:
    gallery = served.gallery
    if victim.label is None:
        nearest = top_rows(rank_items(np.asarray(served.matrix @ served.embed(pixels))), 1)[0]
        return int(gallery.labels[nearest])
    if victim.label not in gallery.classes:
        raise AuditError(f"{gallery.name} has no class {victim.label!r}; choose one of its {len(gallery.classes)}")
    return gallery.classes.index(victim.label)
