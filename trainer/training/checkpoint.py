"""Checkpoints of the training loop: weights, optimizer, moving average and state of a stage."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardrank.models.embedder import Embedder
from hardrank.models.files import atomic_path
from hardrank.trainer.training.stage import TrainingError, TrainingState


def save(
    path: Path, whole: nn.Module, optimizer: torch.optim.Optimizer, average: Embedder | None, state: TrainingState
) -> None:
    """Write a checkpoint of a stage; `path` is replaced as a whole."""
    content: dict[str, Any] = {
        "weights": whole.state_dict(),
        "optimiser": optimizer.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "state": vars(state),
    }
    with atomic_path(path) as unfinished:
        torch.save(content, unfinished)


def restore(path: Path, whole: nn.Module, optimizer: torch.optim.Optimizer, average: Embedder | None) -> TrainingState:
    """Read the checkpoint of a stage into its weights, optimizer and average, and return the state.

    Without a checkpoint nothing changes, and the state is that of the beginning.

    Raises:
        TrainingError: The checkpoint is damaged, or of another configuration.
    """
    if not path.exists():
        return TrainingState()
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        whole.load_state_dict(content["weights"])
        optimizer.load_state_dict(content["optimiser"])
        if average is not None:
            average.load_state_dict(content["average"])
        return TrainingState(**content["state"])
    except Exception as error:  # torch.load raises anything, from KeyError to UnpicklingError
        raise TrainingError(
            f"the checkpoint {path} is damaged or of another configuration ({type(error).__name__}); "
            "delete it to train this stage again"
        ) from error
