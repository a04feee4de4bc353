"""Networks of timm and torchvision as embedders: their features, on the unit sphere."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from hardrank.audit_app.errors import SubjectError
from hardrank.models.backbones import build_backbone
from hardrank.models.embedder import Architecture, Embedder
from hardrank.models.preprocessing import Preprocessing

TIMM: Final = "timm/"


class LibraryWeights(StrEnum):
    """Weights of a network of timm or torchvision."""

    IMAGENET = "imagenet"
    """The library's pretrained weights, which must be in its cache."""
    RANDOM = "random"
    """Random weights, from seed 0."""


@dataclass(frozen=True, kw_only=True)
class LibraryModel:
    """A network of a library as an embedder."""

    embedder: Embedder
    """Its head is the identity: an embedding is the normalised features."""
    preprocessing: Preprocessing
    sha256: str
    """Over the names and values of its weights, hexadecimal."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _LibraryConfig:
    """Input of a network according to its library, and its weights."""

    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    file: Path | None
    """Pretrained weights in the cache; None if they are not cached."""
    place: str
    """How to fetch them with the library."""


def load_library_model(name: str, *, weights: LibraryWeights, size: int | None = None) -> LibraryModel:
    """Build a network of timm or torchvision as an embedder. Nothing is downloaded.

    Args:
        name: `timm/NAME` or a torchvision name.
        weights: Pretrained weights from the library's cache, or random ones.
        size: Side of the input in pixels; None for the network's own.

    Raises:
        BackboneError: Unknown name.
        SubjectError: The weights are not in the cache, or damaged.
    """
    config = _of_timm(name) if name.startswith(TIMM) else _of_torchvision(name)
    side = size or config.size
    if weights is LibraryWeights.IMAGENET and config.file is None:
        raise SubjectError(
            f"the ImageNet weights of {name} are not in the cache, and an audit downloads nothing: fetch them once "
            f"with {config.place}, or use random weights"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone, width = _MAKERS[weights](name, side, config)
    architecture = Architecture(backbone=name, dimension=width, image_size=side)
    embedder = Embedder(backbone.eval(), width, architecture).eval()
    with torch.no_grad():
        embedder.head.weight.copy_(torch.eye(width))
        embedder.head.bias.zero_()
        embedder.mean.copy_(torch.tensor(config.mean).view(1, 3, 1, 1))
        embedder.std.copy_(torch.tensor(config.std).view(1, 3, 1, 1))
    notes = ["the embedding is the network's features, normalised to length 1; they were not trained for retrieval"]
    if weights is LibraryWeights.RANDOM:
        notes.append("the weights are random")
    resize = config.resize if side == config.size else round(side * config.resize / config.size)
    return LibraryModel(
        embedder=embedder,
        preprocessing=Preprocessing(resize=max(side, resize), crop=side),
        sha256=state_hash(backbone),
        notes=tuple(notes),
    )


def state_hash(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a network's state, hexadecimal."""
    whole = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        tensor: Tensor = value.detach().cpu().contiguous()
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        whole.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return whole.hexdigest()


def _random(name: str, side: int, config: _LibraryConfig) -> tuple[nn.Module, int]:
    return build_backbone(name, image_size=side, imagenet=False)


def _cached(name: str, side: int, config: _LibraryConfig) -> tuple[nn.Module, int]:
    """Build without weights, then load those of the cache, so that no library accesses the network."""
    if not name.startswith(TIMM):
        return build_backbone(name, image_size=side, imagenet=True)  # from torchvision's cache
    import timm

    backbone, width = build_backbone(name, image_size=side, imagenet=False)
    overlay = {"file": str(config.file)}
    try:
        known: nn.Module = timm.create_model(
            name.removeprefix(TIMM), pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # each file format has its own errors
        raise SubjectError(f"the weights of {name} in {config.file} cannot be loaded: {error}") from error
    backbone.load_state_dict(known.state_dict())
    return backbone, width


_MAKERS: Final[dict[LibraryWeights, Callable[[str, int, _LibraryConfig], tuple[nn.Module, int]]]] = {
    LibraryWeights.RANDOM: _random,
    LibraryWeights.IMAGENET: _cached,
}


def _of_timm(name: str) -> _LibraryConfig:
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    if config is None:  # unknown, or without weights
        build_backbone(name, image_size=224, imagenet=False)
        return _LibraryConfig(
            size=224,
            resize=256,
            mean=_HALF,
            std=_HALF,
            file=None,
            place="another network: timm has no weights for this one",
        )
    size = int(config.input_size[-1])
    return _LibraryConfig(
        size=size,
        resize=round(size / (config.crop_pct or 1.0)),
        mean=tuple(config.mean),
        std=tuple(config.std),
        file=_timm_file(config),
        place=f"timm.create_model({name.removeprefix(TIMM)!r}, pretrained=True)",
    )


_HALF: Final = (0.5, 0.5, 0.5)


def _timm_file(config: Any) -> Path | None:
    """Return a network's weights in timm's cache, without network access."""
    from huggingface_hub import try_to_load_from_cache

    if config.hf_hub_id:
        for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(config.hf_hub_id, file) if file else None
            if isinstance(found, str):
                return Path(found)
    return _in_torch_cache(config.url) if config.url else None


def _in_torch_cache(url: str) -> Path | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return path if path.is_file() else None


def _of_torchvision(name: str) -> _LibraryConfig:
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        build_backbone(name, image_size=224, imagenet=False)  # raises and explains
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    return _LibraryConfig(
        size=int(preset.crop_size[0]),
        resize=int(preset.resize_size[0]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        file=_in_torch_cache(weights.url),
        place=f"torchvision.models.get_model({name!r}, weights='DEFAULT')",
    )
