"""The network as training runs it: its precision, and the state of its batch norm."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hardrank.models.depthwise import has_own_gradients, own_gradients
from hardrank.models.embedder import Embedder
from hardrank.models.folded import FoldedEmbedder, train_except_norms


class MixedPrecision(nn.Module):
    """φ with the backbone in bf16 and the head in float32: distances need more than bf16's 8 bits."""

    def __init__(self, embedder: Embedder, *, enabled: bool) -> None:
        super().__init__()
        self.embedder = embedder
        self.enabled = enabled
        self._own_gradients = has_own_gradients(embedder.backbone)

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,H,W) in [0,1] → (N,D)."""
        low = torch.autocast(images.device.type, torch.bfloat16, enabled=self.enabled)
        with low, own_gradients(self._own_gradients):
            features = self.embedder.features(images)
        return self.embedder.project(features.to(self.embedder.head.weight.dtype))


def network_for_update(
    embedder: Embedder, frozen: FoldedEmbedder, *, low_precision: bool, freeze_batch_norm: bool
) -> Callable[[Tensor], Tensor]:
    """Return φ in training mode, as updates use it; `frozen` is the folded copy of it.

    With frozen batch norm its folded form is used, which takes less time (`benchmarks/update_step.py`).
    """
    if not (freeze_batch_norm and frozen.folded):
        return MixedPrecision(embedder, enabled=low_precision)
    return frozen.embed_for_update


def set_training_mode(embedder: Embedder, *, freeze_batch_norm: bool) -> None:
    """Put φ into training mode, with batch norm in evaluation mode if it is frozen."""
    if freeze_batch_norm:
        train_except_norms(embedder)
    else:
        embedder.train()
