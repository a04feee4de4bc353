"""The processes of a job: who is first, and how they exchange results and wait without a time limit."""

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch.distributed as dist

if TYPE_CHECKING:
    import lightning as L

T = TypeVar("T")

_PATIENCE: Final = timedelta(days=30)
"""Longer than any job: a process waits for the work of another one, however long it takes. If a process dies, its
connection breaks and the others stop with an error at once."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that share a job; a single one by default."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    group: Any = None
    """The `torch.distributed` group that connects them."""

    @classmethod
    def of(cls, fabric: "L.Fabric") -> "Processes":
        """Return the processes that `fabric` has launched; all of them must call this."""
        if fabric.world_size == 1:
            return cls()
        # On the CPU: the default group may be NCCL, whose collectives time out after minutes and need GPU memory.
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        return cls(rank=fabric.global_rank, size=fabric.world_size, group=group)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def gather(self, part: T) -> list[T]:
        """Return the parts of all processes, by rank; all of them must call this."""
        if self.size == 1:
            return [part]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part, group=self.group)
        return parts

    def wait(self) -> None:
        """Wait until all processes have arrived here, without a time limit."""
        if self.size > 1:
            dist.barrier(group=self.group)


SINGLE_PROCESS: Final = Processes()
