"""What the training of a pretrained network starts from: the head of its embeddings, and the targets of an anchor."""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from hardrank.models.embedder import Embedder
from hardrank.models.files import write_bytes
from hardrank.models.preprocessing import Preprocessing, to_unit
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.data.dataset import Split
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.training.head import projection
from hardrank.trainer.training.stages import Rows

FILE_NAME: Final = "pretrained-start.safetensors"

_HEAD_IMAGES: Final = 2048
"""Training images whose features determine the head, unless all are needed as targets."""
_BATCH: Final = 64


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """What the start is computed from."""

    split: Split
    """The training images."""
    preprocessing: Preprocessing
    dimension: int
    """D, length of the embeddings."""
    keep_targets: bool
    """Whether a warm-up needs the embeddings of the training images."""
    target_size: int | None
    """Side of the images that give these, pixels; None for that of `preprocessing`."""
    seed: int
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class PretrainedStart:
    """The head of a pretrained network, which keeps the retrieval of its features."""

    weight: Tensor
    """(D,F)."""
    bias: Tensor
    """(D,)."""
    targets: Tensor | None
    """(N,D), the embeddings of the training images, on the unit sphere; None without an anchor."""

    def apply(self, embedder: Embedder) -> None:
        """Give `embedder` this head."""
        with torch.no_grad():
            embedder.head.weight.copy_(self.weight)
            embedder.head.bias.copy_(self.bias)

    def write(self, file: Path) -> None:
        """Write to a safetensors file."""
        content = {"weight": self.weight, "bias": self.bias}
        if self.targets is not None:
            content["targets"] = self.targets
        write_bytes(file, save({name: tensor.contiguous() for name, tensor in content.items()}))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `write` wrote."""
        content = load_file(file)
        return cls(weight=content["weight"], bias=content["bias"], targets=content.get("targets"))


def pretrained_start(embedder: Embedder, options: StartOptions, *, progress: OnProgress) -> PretrainedStart:
    """Compute the start from the features of the training images, or of a sample if no targets are needed."""
    rows = np.arange(len(options.split))
    if not options.keep_targets:
        rows = np.random.default_rng(options.seed).permutation(rows)[:_HEAD_IMAGES]
    features = pretrained_features(embedder, options, rows, progress=progress)
    weight, bias = projection(features, options.dimension)
    targets = F.normalize(features @ weight.T + bias, dim=1) if options.keep_targets else None
    return PretrainedStart(weight=weight, bias=bias, targets=targets)


@torch.no_grad()
def pretrained_features(
    embedder: Embedder, options: StartOptions, rows: Rows, *, progress: OnProgress = lambda report: None
) -> Tensor:
    """Return the features (n,F) of the training images `rows`, by the network before any training."""
    preprocessing, size = options.preprocessing, options.target_size
    if size is not None:
        preprocessing = replace(preprocessing, resize=size, crop=size)
    store = ImageStore(options.split, preprocessing, cache_bytes=0)  # each image is needed once
    network = copy.deepcopy(embedder).to(options.device).to(memory_format=torch.channels_last).eval()
    features: list[Tensor] = []
    for part in np.array_split(rows, math.ceil(len(rows) / _BATCH)):
        pixels = torch.from_numpy(to_unit(store.center(part, preprocessing.crop))).to(options.device)
        features.append(network.features(pixels.to(memory_format=torch.channels_last)).cpu())
        progress(StageProgress(stage="features", done=sum(map(len, features)), total=len(rows)))
    return torch.cat(features)
