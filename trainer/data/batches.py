"""SPC-2 batches: pairs of images of the same class (method: Setting)."""

import numpy as np
import numpy.typing as npt

from hardrank.trainer.data.dataset import DatasetError

Rows = npt.NDArray[np.int64]


def spc2_batches(labels: Rows, *, pairs: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1) -> list[Rows]:
    """Give the batches of an epoch for one of several processes, each (2P,) rows: anchors even, partners odd.

    Every image is an anchor once in an epoch; its partner is another random image of its class. The last batch is
    smaller, and is left out with fewer than two pairs. All processes get as many batches of the same sizes: the anchors
    are dealt out in turn, and the first ones again where they do not come out even. Only the arguments decide.

    Raises `DatasetError` for a class of one image, which has no partner, and for a single pair, which has no negative.
    """
    if pairs < 2:
        raise DatasetError(f"a batch of {pairs} pairs has no negatives; give at least 2 pairs for each process")
    generator = np.random.default_rng([seed, epoch])
    partners = draw_partners(labels, generator)
    anchors = generator.permutation(len(labels))
    missing = -len(anchors) % world_size
    anchors = np.concatenate([anchors, np.resize(anchors, missing)])[rank::world_size]
    batches = [
        np.stack([part, partners[part]], axis=1).reshape(-1)
        for part in (anchors[start : start + pairs] for start in range(0, len(anchors), pairs))
        if len(part) >= 2
    ]
    return batches


def draw_partners(labels: Rows, generator: np.random.Generator) -> Rows:
    """Draw for each image another one of its class, uniformly (N,).

    Within the images sorted by class, the partner is 1 to n − 1 places further on, around the class.
    """
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    if sizes.min(initial=2) < 2:
        raise DatasetError("a class of one image has no partner to train with; leave it out")
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)
    place = np.arange(len(labels)) - start
    partners = np.empty(len(labels), dtype=np.int64)
    partners[order] = order[start + (place + generator.integers(1, size)) % size]
    return partners
