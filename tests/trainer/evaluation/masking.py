"""Changes to images that hide the gradients of a network behind them: what the sanity checks must find."""

import math
from typing import Any

import torch
from torch import Tensor


class ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number or by random signs (0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        scale = 2.0 * torch.randint(0, 2, gradient.shape) - 1 if ctx.scale == 0 else ctx.scale
        return gradient * scale, None


def sine_phase(x: Tensor) -> Tensor:
    phase = 2 * math.pi * torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    return x + torch.sin(phase + 255 * 20 * x) / 255


def random_signs(x: Tensor) -> Tensor:
    moved: Tensor = ScaledGradient.apply(x, 0.0)
    return moved


def tiny_gradients(x: Tensor) -> Tensor:
    moved: Tensor = ScaledGradient.apply(x, 1e-8)
    return moved


def rounded(x: Tensor) -> Tensor:
    return (255 * x).round() / 255


def jpeg_like(x: Tensor, leak: float = 0.0) -> Tensor:
    """Round the cosine coefficients of blocks of 8×8 pixels to multiples of 10/255."""
    at = torch.arange(8, dtype=x.dtype)
    basis = torch.cos(math.pi * (at + 0.5) * at[:, None] / 8) / 2
    basis[0] /= math.sqrt(2)
    coefficients = basis @ x.unfold(2, 8, 8).unfold(3, 8, 8) @ basis.T
    blocks = basis.T @ ((coefficients * 25.5).round() / 25.5) @ basis
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(x.shape) + leak * x


def leaking_jpeg(x: Tensor) -> Tensor:
    return jpeg_like(x, 0.001)


def very_noisy(x: Tensor) -> Tensor:
    return x + 0.5 * torch.randn_like(x)


def noisy(x: Tensor) -> Tensor:
    return x + 4 / 255 * torch.randn_like(x)
