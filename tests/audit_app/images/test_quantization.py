"""8-bit pixels of an attack stay within its budget."""

import numpy as np
import pytest

from hardrank.audit_app.images.quantization import perturbation_norm, quantize
from hardrank.trainer.attacks.pgd import Norm
from tests.audit_app.galleries import random_pixels


def _attacked(benign: np.ndarray, epsilon: float, norm: Norm) -> np.ndarray:
    """A random point of the budget."""
    noise = np.random.default_rng(3).uniform(-1, 1, benign.shape)
    scale = epsilon if norm is Norm.LINF else epsilon / np.linalg.norm(noise)
    return (benign / 255 + scale * noise).clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("epsilon", [0.0, 0.4 / 255, 1.5 / 255, 8 / 255, 0.1, 1.0])
def test_the_linf_budget_holds_and_pixels_move_by_less_than_a_level(epsilon: float) -> None:
    benign = random_pixels(3, 16, 16)
    attacked = _attacked(benign, epsilon, Norm.LINF)
    pixels = quantize(attacked, benign, epsilon=epsilon, norm=Norm.LINF)
    assert perturbation_norm(pixels, benign, norm=Norm.LINF) <= epsilon * 255 + 1e-6
    assert np.abs(pixels - attacked * 255.0).max() <= 1.0


@pytest.mark.parametrize("epsilon", [0.0, 0.5 / 255, 0.1, 1.0, 3.0])
def test_the_l2_budget_holds(epsilon: float) -> None:
    benign = random_pixels(3, 16, 16)
    pixels = quantize(_attacked(benign, epsilon, Norm.L2), benign, epsilon=epsilon, norm=Norm.L2)
    change = (pixels.astype(float) - benign) / 255
    assert np.linalg.norm(change) <= epsilon + 1e-9
    assert perturbation_norm(pixels, benign, norm=Norm.L2) == pytest.approx(np.linalg.norm(change) * 255)


def test_values_on_the_8_bit_grid_are_kept() -> None:
    benign = random_pixels(3, 32, 32)
    steps = np.random.default_rng(0).integers(-8, 9, benign.shape)
    wanted = (benign.astype(int) + steps).clip(0, 255)
    floats = wanted.astype(np.float32) / np.float32(255)
    assert np.array_equal(quantize(floats, benign, epsilon=8 / 255, norm=Norm.LINF), wanted)
