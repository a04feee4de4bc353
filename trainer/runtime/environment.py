"""The environment of a run: library versions, hardware, precision."""

import os
import platform
from collections.abc import Callable
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch

from hardrank.models.errors import HardrankError

_PACKAGES: Final = (
    "hardrank",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "pillow",
)


class EnvironmentVariableError(HardrankError):
    """An environment variable with an invalid value."""


class Precision(StrEnum):
    """Precision of the backbone; heads, distances and losses are always float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BF16 = "bf16"

    def is_bf16(self, device: torch.device) -> bool:
        """Return whether the backbone runs in bf16 on `device`."""
        return self is Precision.BF16 or (self is Precision.AUTO and gains_from_bf16(device))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that affect results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, *, low_precision: bool) -> dict[str, str]:
    """Return processor, cores, threads, memory, accelerator and the precision of the backbone."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": _memory(),
        "accelerator": accelerator,
        "precision": "bf16 backbone, float32 head" if low_precision else "float32",
        "system": f"{platform.system()} {platform.machine()}",
    }


BF16_VARIABLE: Final = "HARDRANK_BF16"


def gains_from_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 faster than float32.

    True for GPUs from Ampere on and for CPUs with AVX-512 BF16 or AMX. The environment variable `HARDRANK_BF16`
    overrides the detection: 1 for yes, 0 for no.

    Raises:
        EnvironmentVariableError: `HARDRANK_BF16` is set to something other than 0 or 1.
    """
    forced = os.environ.get(BF16_VARIABLE, "")
    if forced not in {"", "0", "1"}:
        raise EnvironmentVariableError(f"{BF16_VARIABLE} must be 0 or 1, not {forced!r}")
    if forced:
        return forced == "1"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    probes: tuple[str, ...] = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(_probe(getattr(torch.cpu, probe, None)) for probe in probes)


def _probe(probe: Callable[[], bool] | None) -> bool:
    return bool(probe()) if probe is not None else False


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{total / 2**30:.0f} GiB"
