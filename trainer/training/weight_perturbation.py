"""Adversarial weight perturbation (Wu, Xia & Wang, NeurIPS 2020): gradients at the worst weights nearby."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def worst_weights(network: nn.Module, share: float) -> Iterator[None]:
    """Move the weights along their gradients, so that the loss rises, and put them back in the end.

    Each weight tensor w with more than one dimension moves by γ·‖w‖·g/‖g‖ (eq. 10 there, with one step); biases and the
    scales of batch norm do not move.

    Args:
        network: The network, whose parameters have gradients.
        share: γ.
    """
    moved = [(weight, weight.detach().clone()) for weight in network.parameters() if _is_moved(weight)]
    with torch.no_grad():
        for weight, _ in moved:
            gradient = weight.grad
            assert gradient is not None
            weight.add_(gradient, alpha=share * float(weight.norm()) / (float(gradient.norm()) + 1e-20))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, original in moved:
                weight.copy_(original)


def _is_moved(weight: nn.Parameter) -> bool:
    return weight.dim() > 1 and weight.grad is not None
