"""From the floats of an attack to the 8-bit pixels of a file, within the budget."""

from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.trainer.attacks.pgd import Norm

_LEVELS: Final = 255


def quantize(
    attacked: npt.NDArray[np.float32], benign: npt.NDArray[np.uint8], *, epsilon: float, norm: Norm
) -> npt.NDArray[np.uint8]:
    """Round an attacked image to 8 bits without leaving the budget.

    With whole 255ths for ε and α, PGD in L∞ moves on the grid of 8-bit values and nothing is lost. Otherwise each
    value goes to its nearest neighbor within the L∞ budget. In L2, if that would make the perturbation longer than
    ε, all values go to their neighbor on the benign side.

    Args:
        attacked: (…,H,W) in [0,1].
        benign: (…,H,W).
        epsilon: Budget ε, for pixels in [0,1].
        norm: Norm of the budget.
    """
    origin = benign.astype(np.float64)
    # An attack computes in float32, so values that should be whole 255ths are off by a rounding error.
    change = np.round(attacked.astype(np.float64) * _LEVELS - origin, 3)
    nearest = np.round(change)
    if norm is Norm.LINF:
        reach = np.floor(epsilon * _LEVELS + 1e-6)
        nearest = nearest.clip(-reach, reach)
    elif np.linalg.norm(nearest) > epsilon * _LEVELS:
        nearest = np.trunc(change)
    return (origin + nearest).clip(0, _LEVELS).astype(np.uint8)


def perturbation_norm(pixels: npt.NDArray[np.uint8], benign: npt.NDArray[np.uint8], *, norm: Norm) -> float:
    """Norm of the difference of two images (3,H,W), in 255ths: 255·ε at the edge of the budget."""
    change = (pixels.astype(np.int64) - benign.astype(np.int64)).ravel()
    return float(np.abs(change).max(initial=0) if norm is Norm.LINF else np.sqrt((change**2).sum()))
