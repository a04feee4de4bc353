"""SPSA: gradients from pairs of steps of ±σ in every pixel at once (Spall 1992; Uesato et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hardrank.audit_app.blackbox.estimate import EstimatedDescent


@dataclass(frozen=True, kw_only=True)
class SPSA(EstimatedDescent):
    """Simultaneous perturbation: u is a vector of signs, which equal their inverses, by which SPSA divides."""

    NAME: ClassVar[str] = "spsa"
    STREAM: ClassVar[int] = 3_000_029

    @staticmethod
    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw signs with equal probability."""
        return generator.integers(0, 2, shape, dtype=np.int8).astype(np.float32) * 2 - 1
