"""From the floats of an attack to the 8-bit pixels of a file, within the budget."""

import numpy as np
import numpy.typing as npt

from hardrank.trainer.attacks.pgd import Norm

_LEVELS = 255


def quantize(
    attacked: npt.NDArray[np.float32], benign: npt.NDArray[np.uint8], *, epsilon: float, norm: Norm
) -> npt.NDArray[np.uint8]:
    """Round `attacked` (…,H,W) in [0,1] to 8 bits without leaving the budget ε around `benign` (…,H,W).

    PGD in L∞ with ε and α of whole 255ths moves on the grid of 8-bit values, so that nothing is lost. Otherwise each
    value goes to its nearest neighbour within the L∞ budget; in L2, where that would lengthen the perturbation
    beyond ε, values go to their neighbour on the benign side.
    """
    origin = benign.astype(np.float64)
    # What an attack computes in float32 from whole 255ths lies a rounding error beside them.
    change = np.round(attacked.astype(np.float64) * _LEVELS - origin, 3)
    nearest = np.round(change)
    if norm is Norm.LINF:
        reach = np.floor(epsilon * _LEVELS + 1e-6)
        nearest = nearest.clip(-reach, reach)
    elif np.linalg.norm(nearest) > epsilon * _LEVELS:
        nearest = np.trunc(change)
    return (origin + nearest).clip(0, _LEVELS).astype(np.uint8)


def largest_change(pixels: npt.NDArray[np.uint8], benign: npt.NDArray[np.uint8], *, norm: Norm) -> float:
    """Norm of the difference of two images (3,H,W), in 255ths: of pixels in [0,1], this is ε·255."""
    change = (pixels.astype(np.int64) - benign.astype(np.int64)).ravel()
    return float(np.abs(change).max(initial=0) if norm is Norm.LINF else np.sqrt((change**2).sum()))
