"""A perturbation as a picture: grey where nothing changed, black and white at the ends of its scale."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.images.exact_png import Pixels
from hardrank.trainer.attacks.pgd import Norm, PGDOptions

_LEVELS = 255


@dataclass(frozen=True, kw_only=True, eq=False)
class Amplified:
    """A perturbation made visible."""

    pixels: Pixels
    """(3,H,W)."""
    reach: float
    """Change of a pixel that is drawn black (less) or white (more), in 255ths."""

    @property
    def factor(self) -> float:
        """How many times larger than life it is drawn."""
        return _LEVELS / 2 / self.reach

    @property
    def scale(self) -> str:
        """Say what black and white mean."""
        return f"×{self.factor:.3g}: black −{self.reach:.3g}/255, grey 0, white +{self.reach:.3g}/255"


def amplify(change: npt.NDArray[np.floating], budget: PGDOptions) -> Amplified:
    """Draw a perturbation (3,H,W) of pixels in [0,1]: in L∞ on the scale of the budget, in L2 on that of its largest.

    The scale of L∞ stays the same over all steps, so that one sees the perturbation grow.
    """
    reach = budget.epsilon if budget.norm is Norm.LINF else float(np.abs(change).max(initial=0))
    reach = max(reach, 0.5 / _LEVELS)
    grey = np.rint((0.5 + change / (2 * reach)) * _LEVELS).clip(0, _LEVELS)
    return Amplified(pixels=grey.astype(np.uint8), reach=reach * _LEVELS)
