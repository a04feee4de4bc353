"""Fits the tensors of a weights file to a network: names, order, position embeddings."""

from typing import Any, Final

import torch
from torch import Tensor, nn

from hardrank.models.backbones import OWN, TIMM, build_classifier, size_options
from hardrank.models.weights_file import State, WeightsError

_COUNTER: Final = "num_batches_tracked"
"""Of batch norm: not used by a network, and absent from old files."""


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
        raise WeightsError(
            f"the weights {source} do not fit {name}: {_difference(state, wanted)}. If they are of another network, "
            "name it (in training: --architecture.backbone NAME)"
        )
    return fitted


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

    def load(classes: int) -> State:
        # With the classes of the configuration, timm checks that no tensor is missing.
        model = timm.create_model(
            bare,
            pretrained=True,
            num_classes=classes,
            pretrained_cfg_overlay={"state_dict": dict(state), "custom_load": False, "num_classes": classes},
            **size_options(bare, image_size),
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
