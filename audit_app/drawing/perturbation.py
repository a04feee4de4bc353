"""Draw a perturbation as an image: gray where nothing changed, black and white at the ends of the scale."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.images.exact_png import Uint8Image
from hardrank.trainer.attacks.pgd import Norm, PGDOptions

_LEVELS = 255


@dataclass(frozen=True, kw_only=True, eq=False)
class AmplifiedPerturbation:
    """A perturbation made visible."""

    pixels: Uint8Image
    """(3,H,W)."""
    reach: float
    """Change of a pixel that is drawn black (darker) or white (brighter), in 1/255."""

    @property
    def factor(self) -> float:
        """Amplification of the perturbation."""
        return _LEVELS / 2 / self.reach

    @property
    def scale(self) -> str:
        """Describe what black and white mean."""
        return f"×{self.factor:.3g}: black −{self.reach:.3g}/255, gray 0, white +{self.reach:.3g}/255"


def amplify(change: npt.NDArray[np.floating], budget: PGDOptions) -> AmplifiedPerturbation:
    """Draw a perturbation (3,H,W) of pixels in [0,1].

    In L∞ the scale is that of the budget, so that it is the same for all steps and images; in L2 it is that of the
    largest change.
    """
    reach = budget.epsilon if budget.norm is Norm.LINF else float(np.abs(change).max(initial=0))
    reach = max(reach, 0.5 / _LEVELS)
    gray = np.rint((0.5 + change / (2 * reach)) * _LEVELS).clip(0, _LEVELS)
    return AmplifiedPerturbation(pixels=gray.astype(np.uint8), reach=reach * _LEVELS)
