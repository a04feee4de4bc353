"""NES: gradients from pairs of Gaussian steps (Ilyas et al., *Black-box attacks with limited queries*, ICML 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hardrank.audit_app.blackbox.estimate import EstimatedDescent


@dataclass(frozen=True, kw_only=True)
class NES(EstimatedDescent):
    """Natural evolution strategies with antithetic sampling: u is Gaussian."""

    NAME: ClassVar[str] = "nes"
    STREAM: ClassVar[int] = 3_000_017

    @staticmethod
    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw standard normal numbers."""
        return generator.standard_normal(shape, dtype=np.float32)
