"""What is attacked: anything that answers the bytes of an image with ids, best first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.models.preprocessing import file_pixels, to_unit


class SearchSystem(Protocol):
    """A search that shows ids alone."""

    @property
    def size(self) -> int:
        """N, number of items that are searched; ranks are given in % of it."""

    @property
    def most_results(self) -> int:
        """Largest number of ids in an answer."""

    def search(self, files: Sequence[bytes], k: int) -> list[list[str]]:
        """Return the ids of the first `k` results, best first, of each image file."""

    def describe(self) -> dict[str, Any]:
        """Return what it is, as JSON values; a run is continued only on a system of the same description."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalSystem:
    """A model with a gallery in this process, which prepares files and embeds them as the server does."""

    served: ServedGallery

    @property
    def size(self) -> int:
        """All items of the gallery."""
        return len(self.served.gallery)

    @property
    def most_results(self) -> int:
        """The whole gallery."""
        return self.size

    def search(self, files: Sequence[bytes], k: int) -> list[list[str]]:
        """Search by cosine similarity."""
        subject, ids = self.served.subject, self.served.gallery.ids
        pixels = np.stack([file_pixels(data, subject.preprocessing) for data in files])
        scores = subject.serve(to_unit(pixels)) @ self.served.matrix.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [[ids[row] for row in found] for found in order.tolist()]

    def describe(self) -> dict[str, Any]:
        """Return the model's name and hash."""
        subject = self.served.subject
        return {"kind": "local", "model": subject.name, "sha256": subject.sha256, "items": self.size}
