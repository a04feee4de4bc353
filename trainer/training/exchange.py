"""What the processes of a training exchange in an iteration: losses, gradients and buffers."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hardrank.trainer.training.stage import StepLoss

if TYPE_CHECKING:
    import lightning as L


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The losses of all processes at an iteration."""

    count: int
    """Processes that have one."""
    total: float
    """Their sum."""
    previous_loss: float
    """The mean of their `StepLoss.previous_loss`; NaN if there is none."""


def exchange(fabric: "L.Fabric", own: StepLoss | None) -> Losses:
    """Exchange the losses of all processes, so that they all take the same decision."""
    values = (0.0, 0.0, 0.0) if own is None else (1.0, float(own.loss.detach()), own.previous_loss)
    if fabric.world_size > 1:
        shared = torch.tensor(values, device=fabric.device)
        values = tuple(cast(Tensor, fabric.all_reduce(shared, reduce_op="sum")).tolist())
    count, total, previous = values
    return Losses(count=round(count), total=total, previous_loss=previous / count if count else math.nan)


def reduce_gradients(fabric: "L.Fabric", whole: nn.Module, processes: int) -> None:
    """Replace the gradients by their mean over the `processes` that have one; the others take part with zeros.

    In place of `DistributedDataParallel`, whose forward pass communicates too: a process whose batch holds nothing to
    learn from makes no forward pass.
    """
    if fabric.world_size == 1:
        return
    parameters = list(whole.parameters())
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    total = cast(Tensor, fabric.all_reduce(torch.cat([each.flatten() for each in gradients]), reduce_op="sum"))
    parts = total.div_(processes).split([each.numel() for each in gradients])
    for parameter, gradient, part in zip(parameters, gradients, parts, strict=True):
        parameter.grad = gradient.copy_(part.view_as(gradient))


def share_buffers(fabric: "L.Fabric", whole: nn.Module) -> None:
    """Copy the first process's buffers to all processes, such as the statistics of batch norm."""
    if fabric.world_size == 1:
        return
    of_first = fabric.broadcast([buffer.cpu() for buffer in whole.buffers()])  # at once: a collective for each is slow
    for buffer, value in zip(whole.buffers(), of_first, strict=True):
        buffer.copy_(value)
