"""Items whose neighbors two models see differently."""

import numpy as np
import numpy.typing as npt

from hardrank.serving.inspection.hubs import Floats, Occurrences


def neighbor_overlaps(one: Occurrences, other: Occurrences) -> Floats:
    """Return the share of neighbors that two models have in common, (q,) in [0,1].

    Args:
        one: Neighbors by one model, of queries and among items in the same order as those of the other.
        other: Neighbors by the other model.
    """
    shared = np.array(
        [len(_known(first) & _known(second)) for first, second in zip(one.neighbors, other.neighbors, strict=True)],
        dtype=np.float64,
    )
    most = np.minimum((one.neighbors >= 0).sum(axis=1), (other.neighbors >= 0).sum(axis=1))
    overlaps: Floats = np.divide(shared, most, out=np.ones_like(shared), where=most > 0)
    return overlaps


def _known(neighbors: npt.NDArray[np.int64]) -> set[int]:
    return set(neighbors[neighbors >= 0].tolist())
