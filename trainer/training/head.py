"""The first weights of the embedding head on a pretrained backbone."""

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def projection(features: Tensor, dimension: int) -> Tensor:
    """Return a linear map of features that keeps their cosines.

    With D ≥ F its columns are orthonormal, so that cosines stay as they are. With D < F its rows are the D principal
    directions of the normalized features, not centered, which keeps the cosines as well as D dimensions can. Rows that
    too few features leave undetermined complete the basis.

    Args:
        features: (n,F), a sample of the images that the network will be trained on.
        dimension: D.

    Returns:
        The weight (D,F) of a linear layer without bias, in the precision of `features`.
    """
    width = features.shape[1]
    if dimension >= width:
        return torch.eye(dimension, width, dtype=features.dtype, device=features.device)
    directions = F.normalize(features.double(), dim=1)
    _, basis = torch.linalg.eigh(directions.T @ directions)  # ascending
    weight: Tensor = basis.flip(1)[:, :dimension].T.to(features).contiguous()
    return weight
