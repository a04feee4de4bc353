"""SPC-2 batches: pairs of images of the same class (method: Setting)."""

import numpy as np
import numpy.typing as npt

from hardrank.trainer.data.dataset import DatasetError

Rows = npt.NDArray[np.int64]


def spc2_batches(labels: Rows, *, pairs: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1) -> list[Rows]:
    """Return the batches of an epoch for one of several processes.

    Every image is an anchor once in an epoch; its partner is another random image of its class. The last batch is
    smaller, and is dropped if it has fewer than two pairs. All processes get the same number of batches of the same
    sizes: anchors are dealt out in turn, and the first ones repeat if they do not divide evenly.

    Args:
        labels: (N,), class of each image.
        pairs: P, pairs in a batch.
        epoch: Number of the epoch.
        seed: Random seed. The same arguments give the same batches.
        rank: Number of this process.
        world_size: Number of processes.

    Returns:
        Batches of (2P,) rows: anchors at even, partners at odd places.

    Raises:
        DatasetError: A class has only one image; or P is 1, which leaves no negatives.
    """
    if pairs < 2:
        raise DatasetError(f"a batch of {pairs} pairs has no negatives; use at least 2 pairs per process")
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
    """Draw another image of the same class for each image, uniformly: (N,) rows.

    Among the images sorted by class, the partner is 1 to n − 1 places further, modulo the n images of the class.
    """
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    if sizes.min(initial=2) < 2:
        raise DatasetError("a class of one image has no second image; remove it")
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)
    place = np.arange(len(labels)) - start
    partners = np.empty(len(labels), dtype=np.int64)
    partners[order] = order[start + (place + generator.integers(1, size)) % size]
    return partners
