"""The attack on a block of images, which sees nothing of a system but ids."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hardrank.audit_app.blackbox.oracle import OracleAnswer
from hardrank.audit_app.blackbox.rank_goal import AIMS, Aim, prepare_goal
from hardrank.audit_app.blackbox.ranks import RankSearch, explored_within
from hardrank.audit_app.blackbox.signs import LEVELS, sign_steps
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.rank_only.figures import draw_targets, measure_lists
from hardrank.audit_app.rank_only.result import ImageEntry
from hardrank.audit_app.rank_only.systems import SearchSystem
from hardrank.models.decoding import decode
from hardrank.models.preprocessing import Preprocessing, to_square, to_unit

CHECKPOINTS: Final = (100, 250, 500, 1000, 1500, 2000, 5000, 10_000)
"""Numbers of queries after which the loss is recorded."""


class BlockLists:
    """Visible lists of a system as rows of the gallery; unknown ids are N."""

    def __init__(self, system: SearchSystem, gallery: ImageGallery, images: Sequence[bytes], *, side: int, k: int):
        self._system, self._gallery, self._images, self._side = system, gallery, images, side
        self._rows = {id: row for row, id in enumerate(gallery.ids)}
        self.size = max(system.size, len(gallery))
        self.visible = min(k, self.size)
        self.unknown: set[str] = set()

    def of(self, files: Sequence[bytes], k: int | None = None) -> Tensor:
        """Return the lists (n,k) of image files."""
        limit = k or self.visible
        found = torch.full((len(files), limit), self.size, dtype=torch.long)
        for place, ids in enumerate(self._system.search(files, limit)):
            self.unknown.update(id for id in ids if id not in self._rows)
            rows = [self._rows.get(id, self.size) for id in ids[:limit]]
            found[place, : len(rows)] = torch.tensor(rows, dtype=torch.long)
        return found

    def benign(self) -> Tensor:
        """Return the lists (G,k) of the benign images."""
        return self.of(self._images)

    def lists_of(self, items: Tensor) -> Tensor:
        """Return the lists (n,k) of the gallery's images `items` (n,)."""
        return self.of([encode_png(square_pixels(self._gallery.read(row), self._side)) for row in items.tolist()])


def square_pixels(data: bytes, side: int) -> np.ndarray:
    """Return an image file as a square of uint8 (3,side,side), as it is sent."""
    return to_square(decode(data), Preprocessing(resize=side, crop=side))


def _files(images: Tensor) -> list[bytes]:
    """Return images (n,3,S,S) in [0,1], of 8 bits, as PNG."""
    return [encode_png(one) for one in (images * LEVELS).round().to(torch.uint8).numpy()]


def attack_block(
    system: SearchSystem,
    gallery: ImageGallery,
    rows: Sequence[int],
    search: RankSearch,
    *,
    attack: str,
    targets: int,
    epsilon: float,
    side: int,
    seed: int,
    on_queries: Callable[[int], None] = lambda count: None,
) -> tuple[list[ImageEntry], set[str]]:
    """Attack images of the gallery.

    Args:
        system: Answers files with ids.
        gallery: The images and their ids.
        rows: The attacked images.
        search: Budget of queries, visible ids, and the other options of the search.
        attack: A key of `RANK_FIGURES`.
        targets: Number of targets of an image.
        epsilon: L∞ budget for pixels in [0,1].
        side: Side in pixels of the squares that are sent.
        seed: Of targets and search.
        on_queries: Called with the queries of all images so far.

    Returns:
        What became of each image, and the ids that the gallery lacks.
    """
    pixels = np.stack([square_pixels(gallery.read(row), side) for row in rows])
    benign_files = [encode_png(one) for one in pixels]
    shown = min(search.visible or system.most_results, system.most_results)
    lists = BlockLists(system, gallery, benign_files, side=side, k=shown)
    judged = lists.of(benign_files, system.most_results)
    aims = draw_targets(judged, rows, len(gallery), attack=attack, count=targets, seed=seed)
    prepared = prepare_goal(attack, aims, lists, explored=explored_within(search.queries, search.explored))
    ids, spent = torch.tensor(rows), prepared.spent.clone()
    history: list[dict[int, float]] = [{} for _ in rows]

    def query(images: Tensor, which: Tensor) -> OracleAnswer:
        found = lists.of(_files(images))
        spent.index_add_(0, which, torch.ones_like(which))
        return OracleAnswer(prepared.goal.losses(found, which), images.new_zeros(len(images), 0))

    best = torch.from_numpy(to_unit(pixels))
    first: Tensor | None = None
    for state in sign_steps(
        query,
        best,
        epsilon=epsilon,
        ids=ids,
        queries=search.queries - prepared.spent,
        resolution=search.resolution,
        seed=seed,
    ):
        best, losses = state.images, state.losses
        first = losses.clone() if first is None else first
        for image, used in enumerate(spent.tolist()):
            loss = float(losses[image])
            history[image].update({at: loss for at in CHECKPOINTS if used <= at <= search.queries})
        on_queries(int(spent.sum()))
    assert first is not None
    after = lists.of(_files(best), system.most_results)
    reference = lists.lists_of(aims[:, 0]) if AIMS[attack] is Aim.IMITATE else judged
    old, new = (measure_lists(one, aims, reference, attack=attack, size=lists.size) for one in (judged, after))
    outcomes = [
        ImageEntry(
            id=gallery.ids[row],
            targets=tuple(gallery.ids[item] for item in aims[image].tolist()),
            before=float(old.values[image]),
            after=float(new.values[image]),
            hidden_before=bool(old.hidden[image]),
            hidden_after=bool(new.hidden[image]),
            queries=int(spent[image]),
            lists=int(prepared.spent[image]),
            loss_before=float(first[image]),
            loss_after=float(losses[image]),
            losses=history[image],
        )
        for image, row in enumerate(rows)
    ]
    return outcomes, lists.unknown
