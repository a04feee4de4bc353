"""The first weights of the embedding head on a pretrained backbone."""

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def projection(features: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Return the linear layer that centers features and keeps their cosines: a principal component analysis.

    With D ≥ F the weight is the identity, completed by zeros. With D < F its rows are the first D principal directions
    of the normalized features; rows that too few features leave undetermined complete the basis. The bias subtracts the
    mean direction, which all images share and which tells none of them apart.

    Args:
        features: (n,F), a sample of the images that the network will be trained on.
        dimension: D.

    Returns:
        Weight (D,F) and bias (D,) of a linear layer, in the precision of `features`.
    """
    width = features.shape[1]
    directions = F.normalize(features.double(), dim=1)
    mean = directions.mean(dim=0)
    if dimension >= width:
        weight = torch.eye(dimension, width, dtype=torch.float64, device=features.device)
    else:
        centered = directions - mean
        _, basis = torch.linalg.eigh(centered.T @ centered)  # ascending
        weight = basis.flip(1)[:, :dimension].T
    # Features are not normalized in the network, so the mean direction is subtracted at their mean length.
    bias = -(weight @ mean) * features.double().norm(dim=1).mean()
    return weight.to(features).contiguous(), bias.to(features)
