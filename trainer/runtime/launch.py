"""How and where a run is carried out: folders, device, processes, precision."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from hardrank.models.errors import HardrankError
from hardrank.models.home import home
from hardrank.trainer.runtime.environment import gains_from_bf16
from hardrank.trainer.runtime.malloc import keep_freed_memory

if TYPE_CHECKING:
    import lightning as L

ROOT: Final = home()
"""The repository, or the working directory where hardrank was installed from a wheel."""


class LaunchError(HardrankError):
    """A device or number of processes that is not there, or a number that cannot be."""


class Precision(StrEnum):
    """Precision of the backbone; heads, distances and losses are always float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How and where a command is carried out; nothing here changes what is asked of it."""

    runs: Path = ROOT / "runs"
    """Folder of checkpoints and logs; the run gets a folder of its name in it."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu or cuda."""
    precision: Precision = Precision.AUTO
    """auto takes bf16 where the hardware gains from it."""
    checkpoint_every: int = 50
    """Iterations between checkpoints."""

    def __post_init__(self) -> None:
        _at_least_one(self, "checkpoint_every")


@dataclass(frozen=True, kw_only=True)
class MainLaunch(Launch):
    """How and where the main job is carried out."""

    resume: bool = False
    """Continue the run of this name where it stopped."""
    overwrite: bool = False
    """Start anew, replacing the run and the bundles of this name."""
    zoo: Path = ROOT / "models" / "zoo"
    """Folder where the bundles land."""
    processes: int = 1
    """Processes that train together, on one GPU each or on the CPU; torchrun sets this itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one(self, "processes")

    @property
    def world(self) -> int:
        """Number of processes on this machine: torchrun's, or what was asked."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.processes))


def _at_least_one(launch: Launch, name: str) -> None:
    if getattr(launch, name) < 1:
        raise LaunchError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(launch, name)}")


def make_fabric(launch: Launch, *, world: int = 1) -> "L.Fabric":
    """Set up `world` processes and the device; raises `LaunchError` where they cannot be had."""
    if launch.device not in {"auto", "cpu", "cuda"}:
        raise LaunchError(f"device is auto, cpu or cuda, not {launch.device!r}")
    if launch.device == "cuda" and not torch.cuda.is_available():
        raise LaunchError("no CUDA device is at hand: leave --device at auto, or check the driver with nvidia-smi")
    accelerator = "cuda" if launch.device != "cpu" and torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and world > torch.cuda.device_count():
        raise LaunchError(f"{world} processes need as many GPUs; there are {torch.cuda.device_count()}")
    import lightning  # seconds, which --help and mistakes need not wait for

    keep_freed_memory()
    fabric = lightning.Fabric(accelerator=accelerator, devices=world, strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    return fabric


def low_precision(launch: Launch, device: torch.device) -> bool:
    """Whether the backbone runs in bf16."""
    wanted = launch.precision is Precision.BF16
    return wanted or (launch.precision is Precision.AUTO and gains_from_bf16(device))
