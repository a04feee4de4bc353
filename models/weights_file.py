"""Reads a file of weights. Nothing in it is executed."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hardrank.models.backbones import BackboneError

State = Mapping[str, Tensor]


class WeightsError(BackboneError):
    """Pretrained weights that are not available, damaged, unsafe, or do not fit the network."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The content of a weights file."""

    state: State
    sha256: str


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
        if _is_incomplete(data, cause):
            raise WeightsError(f"{path} is incomplete or damaged; copy or download it again") from error
        if is_pytorch and "weights only" in cause.lower():
            raise WeightsError(
                f"{path} was not loaded: it holds Python objects, which can execute code, or is damaged. Save only the "
                "tensors, where the network is defined: torch.save(model.state_dict(), FILE)"
            ) from error
        raise WeightsError(f"{path} is neither a safetensors file nor a state dict of PyTorch: {cause}") from error


def _is_incomplete(data: bytes, cause: str) -> bool:
    """Return whether a file that could not be read has lost its end."""
    if data[:4] == b"PK\x03\x04":  # of PyTorch since 1.6: a zip file, with its directory at the end
        return not zipfile.is_zipfile(io.BytesIO(data))
    return any(sign in cause for sign in ("not fully covered", "IncompleteBuffer", "InvalidHeaderLength", "EOF"))


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


def state_hash(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a network's state, hexadecimal."""
    whole = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        tensor: Tensor = value.detach().cpu().contiguous()
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        whole.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return whole.hexdigest()
