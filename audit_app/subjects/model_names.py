"""How models are named: `[LABEL=]PLACE`, a folder, a file, or a library's network, alone or as `NAME@FILE`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.subjects.subject import SubjectKind
from hardrank.models.backbones import TIMM
from hardrank.models.bundle import CARD
from hardrank.models.files import expand_user

ONNX_SUFFIX: Final = ".onnx"
CHECKPOINTS: Final = (".safetensors", ".pt", ".pth", ".bin")
"""Endings of files with the weights of a network."""
_LABEL: Final = re.compile(r"(?P<label>[\w.\-+ ]{1,64})=(?P<rest>.+)", re.DOTALL)


def split_label(text: str) -> tuple[str | None, str]:
    """Return the label, if there is one, and the place."""
    match = _LABEL.fullmatch(text)
    if match is None or expand_user(text).exists():
        return None, text
    return match["label"], match["rest"]


def kind_of(text: str) -> SubjectKind:
    """Return the kind of the model at a place; raises `SubjectError` if nothing can be there."""
    path = expand_user(text)
    name, at, _ = text.partition("@")
    if not path.exists() and (text.startswith(TIMM) or (at and "/" not in name and "\\" not in name)):
        return SubjectKind.BACKBONE
    if path.is_dir() or path.name == CARD:
        return SubjectKind.BUNDLE
    if path.is_file() and path.suffix.lower() in CHECKPOINTS:
        raise SubjectError(
            f"{text} is a file of weights (PyTorch or safetensors), which needs the name of its network: write "
            f"NAME@FILE, such as resnet18@{text} or timm/resnet18@{text}"
        )
    if path.suffix == ONNX_SUFFIX or path.is_file():
        return SubjectKind.ONNX
    if "/" in text or "\\" in text or text.startswith((".", "~")):
        raise SubjectError(
            f"{text} does not exist; give the folder of a bundle, an ONNX file, timm/NAME or a torchvision name"
        )
    return SubjectKind.BACKBONE


def split_weights(text: str) -> tuple[str, Path | None]:
    """Split NAME@FILE; names of networks contain no `@`."""
    name, at, file = text.partition("@")
    return name, expand_user(file) if at else None


def absolute_model(text: str) -> str:
    """Return the same model with an absolute path, valid in any working directory; library names stay as they are."""
    label, place = split_label(text)
    if kind_of(place) is SubjectKind.BACKBONE:
        name, file = split_weights(place)
        path = name if file is None else f"{name}@{file.absolute()}"
    else:
        path = str(expand_user(place).absolute())
    return path if label is None else f"{label}={path}"


def with_weights(models: Sequence[str], file: Path) -> tuple[str, ...]:
    """Return `models` with the weights of `file` for the library network among them.

    Raises:
        SubjectError: Not exactly one of them is a library network without a file of weights.
    """
    fitting = [text for text in models if _takes_weights(text)]
    if len(fitting) != 1:
        raise SubjectError(
            f"the weights {file} are for one network of timm or torchvision, and {len(fitting)} are given; write "
            "NAME@FILE for each"
        )
    return tuple(f"{text}@{file}" if text == fitting[0] else text for text in models)


def _takes_weights(text: str) -> bool:
    _, place = split_label(text)
    return kind_of(place) is SubjectKind.BACKBONE and split_weights(place)[1] is None
