"""How a training command runs: folders, device, precision, threads, processes."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from hardrank.models.cores import usable_cores
from hardrank.models.errors import HardrankError
from hardrank.models.home import home
from hardrank.trainer.runtime.environment import Precision
from hardrank.trainer.runtime.malloc import tune_allocator

if TYPE_CHECKING:
    import lightning as L

ROOT: Final = home()
"""The repository, or the working directory if hardrank was installed from a wheel."""


class LaunchError(HardrankError):
    """A device or a number of processes that is not available, or an invalid number."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a command runs. Nothing here is part of the configuration."""

    runs: Path = ROOT / "runs"
    """Folder of checkpoints and logs; each run gets a folder of its name in it."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu or cuda."""
    precision: Precision = Precision.AUTO
    """Precision of the backbone; auto uses bf16 if the hardware is faster with it."""
    threads: int = field(default_factory=usable_cores)
    """CPU threads; by default HARDRANK_THREADS if set, else one per usable core."""
    checkpoint_every: int = 50
    """Iterations between checkpoints."""

    def __post_init__(self) -> None:
        _at_least_one(self, "checkpoint_every")
        _at_least_one(self, "threads")


@dataclass(frozen=True, kw_only=True)
class MainLaunch(Launch):
    """How the main job runs."""

    resume: bool = False
    """Continue the run of this name from its last checkpoint."""
    overwrite: bool = False
    """Start again, replacing the run and the bundles of this name."""
    zoo: Path = ROOT / "models" / "zoo"
    """Folder for the bundles."""
    preflight: bool = True
    """Check weights, network, export, disk and memory before training, and estimate its time."""
    plan: bool = False
    """Only check and print the estimate; nothing is written, except the images of the demo data set."""
    processes: int = 1
    """Processes that train together, each on a GPU of its own or on the CPU. torchrun sets this itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one(self, "processes")
        if self.plan and (not self.preflight or self.world > 1):
            raise LaunchError("--plan checks in one process: leave out --no-preflight and --processes")

    @property
    def world(self) -> int:
        """Number of processes on this machine: set by torchrun, or else by the option."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.processes))


def _at_least_one(launch: Launch, name: str) -> None:
    if getattr(launch, name) < 1:
        raise LaunchError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(launch, name)}")


def make_fabric(launch: Launch, *, world: int = 1) -> "L.Fabric":
    """Start `world` processes, and choose the device and the number of threads of each.

    Raises:
        LaunchError: the device does not exist, or there are fewer GPUs than processes.
    """
    if launch.device not in {"auto", "cpu", "cuda"}:
        raise LaunchError(f"--device must be auto, cpu or cuda, not {launch.device!r}")
    if launch.device == "cuda" and not torch.cuda.is_available():
        raise LaunchError("no CUDA device available: use --device auto, or check the driver with nvidia-smi")
    accelerator = "cuda" if launch.device != "cpu" and torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and world > torch.cuda.device_count():
        raise LaunchError(f"{world} processes need {world} GPUs; this machine has {torch.cuda.device_count()}")
    import lightning  # takes seconds, which --help and error messages need not wait for

    tune_allocator()
    fabric = lightning.Fabric(accelerator=accelerator, devices=world, strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    torch.set_num_threads(max(1, launch.threads // world))
    return fabric
