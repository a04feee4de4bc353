"""Models under audit: bundles, networks of timm and torchvision, and plain ONNX files, with one interface."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.subjects.library_models import LibraryWeights, load_library_model
from hardrank.audit_app.subjects.onnx_file import OnnxFile, PixelScale, check_gradient
from hardrank.audit_app.subjects.onnx_operators import ConversionError
from hardrank.audit_app.subjects.onnx_reading import LARGEST_FILE, first_line
from hardrank.models.backbones import TIMM
from hardrank.models.bundle import CARD, load_embedder
from hardrank.models.card import Card
from hardrank.models.cores import usable_cores
from hardrank.models.embedder import Embed, Embedder
from hardrank.models.files import expand_user
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import Preprocessing
from hardrank.serving.engine import Device, Engine
from hardrank.trainer.runtime.environment import Precision

FloatArray = npt.NDArray[np.float32]
Serve = Callable[[FloatArray], FloatArray]
"""(N,3,S,S) in [0,1] → (N,D) of norm 1."""

_logger = logging.getLogger(__name__)

SUFFIX: Final = ".onnx"
CHECKPOINTS: Final = (".safetensors", ".pt", ".pth", ".bin")
"""Endings of files with the weights of a network."""
_LABEL: Final = re.compile(r"(?P<label>[\w.\-+ ]{1,64})=(?P<rest>.+)", re.DOTALL)


class SubjectKind(StrEnum):
    """Kind of a model."""

    BUNDLE = "bundle"
    BACKBONE = "backbone"
    """A network of timm or torchvision."""
    ONNX = "onnx"
    """A plain ONNX file; its gradients, if it has any, are those of the graph converted to PyTorch."""


@dataclass(frozen=True, kw_only=True)
class SubjectOptions:
    """How models are loaded."""

    device: Device = Device.AUTO
    """auto (a GPU if there is one), cpu or cuda."""
    precision: Precision = Precision.AUTO
    """Of the passes that give gradients. Final images are always judged in float32."""
    threads: int = 0
    """Threads of ONNX Runtime; 0: one for each usable core."""
    size: int | None = None
    """Side of the input in pixels, for timm, torchvision and ONNX files without a fixed one; None: their own."""
    resize: int | None = None
    """Side of the square that images are resized to before the center crop; None: 8/7 of the input for ONNX files,
    else the model's own."""
    weights: LibraryWeights = LibraryWeights.IMAGENET
    """Of timm and torchvision networks."""
    scale: PixelScale = PixelScale.UNIT
    """Pixel values that an ONNX file expects."""
    output: str | None = None
    """Output of an ONNX file that is the embedding; None: the only one."""
    largest_onnx: int = LARGEST_FILE
    """Largest size of an ONNX file, bytes."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise SubjectError(f"threads is {self.threads}; give 0 or more")
        if min(self.size or 1, self.resize or 1, self.largest_onnx) < 1:
            raise SubjectError(f"input size {self.size}, resize {self.resize}: give 1 pixel or more")


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model under audit. All of its functions are thread-safe."""

    name: str
    """Its name in reports."""
    kind: SubjectKind
    source: str
    """As requested: a path or a library's name."""
    sha256: str
    """Of model.onnx, of the ONNX file, or over a library network's weights; hexadecimal."""
    preprocessing: Preprocessing
    dimension: int
    """D, coordinates of an embedding."""
    device: torch.device
    """Where `embed` and `judge` run."""
    embed: Embed | None
    """Differentiable, in the requested precision; None: no gradients, so only black-box attacks."""
    no_gradients: str = ""
    """Why there are no gradients; empty otherwise."""
    judge: Embed
    """The same function in float32: (N,3,S,S) in [0,1] on `device` → (N,D) of norm 1; without gradients for ONNX."""
    serve: Serve
    """The model as a server runs it; `runtime` names the library."""
    runtime: str
    """Library and device of `serve`, such as `ONNX Runtime (cpu)`."""
    precision: str
    """Of the passes that give gradients: `float32`, `bf16 backbone, float32 head`, or `none`."""
    card: Card | None = None
    """Card of a bundle."""
    notes: tuple[str, ...] = ()
    """Assumptions and corrections made at loading, for reports."""

    @property
    def white_box(self) -> bool:
        """Whether attacks can use gradients."""
        return self.embed is not None

    @property
    def gradients(self) -> Embed:
        """`embed`; raises `SubjectError` if there is none."""
        if self.embed is None:
            raise SubjectError(
                f"{self.name} has no gradients ({self.no_gradients}); use a black-box attack, or its bundle"
            )
        return self.embed

    def without_gradients(self, reason: str) -> "Subject":
        """Return the model for black-box attacks alone."""
        note = f"attacked with queries alone, since its gradients cannot be used: {reason}"
        return replace(self, embed=None, no_gradients=reason, precision="none", notes=(*self.notes, note))

    def with_checked_gradients(self, images: Tensor, embeddings: Tensor) -> "Subject":
        """Check the gradients of a converted ONNX file on images; other models are returned as they are.

        Args:
            images: (n,3,S,S) in [0,1] on `device`.
            embeddings: (n,D), what `judge` gives for them.

        Returns:
            The model with the largest difference of embeddings in its notes, or without gradients if the converted
            network does not compute the same embeddings.
        """
        if self.kind is not SubjectKind.ONNX or self.embed is None or not len(images):
            return self
        try:
            difference = check_gradient(self.embed, images, embeddings)
        except ConversionError as error:
            return self.without_gradients(str(error))
        note = (
            f"the gradients are those of the graph converted to PyTorch; on {len(images)} images of the gallery its "
            f"embeddings differ by at most {difference:.1e} from ONNX Runtime's, which judges the results"
        )
        return replace(self, notes=(*self.notes, note))

    @property
    def size(self) -> int:
        """S, side of the input, pixels."""
        return self.preprocessing.crop

    def describe(self) -> dict[str, Any]:
        """Describe the model for a report, ready for JSON."""
        return {
            "name": self.name,
            "kind": str(self.kind),
            "source": self.source,
            "sha256": self.sha256,
            "dimension": self.dimension,
            "preprocessing": self.preprocessing.to_dict(),
            "runtime": self.runtime,
            "precision": self.precision,
            "defense": self.card.defense if self.card else None,
            "recipe": self.card.recipe if self.card else None,
            "run_id": self.card.run_id if self.card else None,
            "notes": list(self.notes),
        }


def load_subject(text: str, options: SubjectOptions | None = None) -> Subject:
    """Load a model under audit.

    Args:
        text: The folder of a bundle, an ONNX file, `timm/NAME` or a torchvision name; `NAME@FILE` loads the weights of
            a library network from a file. `LABEL=` before it sets the name of the model in reports.
        options: How to load it.

    Raises:
        SubjectError: The model does not exist or is not an embedding model.
        BundleError: A damaged bundle.
        BackboneError: An unknown name.
    """
    options = options or SubjectOptions()
    label, place = _split_label(text)
    subject = _LOADERS[_kind_of(place)](place, options)
    return replace(subject, name=label or subject.name)


def load_subjects(texts: Sequence[str], options: SubjectOptions | None = None) -> list[Subject]:
    """Load several models; raises `SubjectError` if two have the same name."""
    subjects = [load_subject(text, options) for text in texts]
    check_names_differ(subjects)
    return subjects


def absolute_model(text: str) -> str:
    """Return the same model with an absolute path, valid in any working directory; library names stay as they are."""
    label, place = _split_label(text)
    if _kind_of(place) is SubjectKind.BACKBONE:
        name, file = _split_weights(place)
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
    _, place = _split_label(text)
    return _kind_of(place) is SubjectKind.BACKBONE and _split_weights(place)[1] is None


def _split_weights(text: str) -> tuple[str, Path | None]:
    """Split NAME@FILE; names of networks contain no `@`."""
    name, at, file = text.partition("@")
    return name, expand_user(file) if at else None


def check_names_differ(subjects: Sequence[Subject]) -> None:
    """Raise `SubjectError` unless there are models and their names differ."""
    if not subjects:
        raise SubjectError("there is no model to audit; name at least one")
    names = [subject.name for subject in subjects]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SubjectError(f"two models are called {twice[0]!r}; rename one: LABEL={subjects[0].source}")


def _split_label(text: str) -> tuple[str | None, str]:
    match = _LABEL.fullmatch(text)
    if match is None or expand_user(text).exists():
        return None, text
    return match["label"], match["rest"]


def _kind_of(text: str) -> SubjectKind:
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
    if path.suffix == SUFFIX or path.is_file():
        return SubjectKind.ONNX
    if "/" in text or "\\" in text or text.startswith((".", "~")):
        raise SubjectError(
            f"{text} does not exist; give the folder of a bundle, an ONNX file, timm/NAME or a torchvision name"
        )
    return SubjectKind.BACKBONE


def _bundle(text: str, options: SubjectOptions) -> Subject:
    folder = expand_user(text)
    folder = folder.parent if folder.name == CARD else folder
    engine = Engine(folder, threads=options.threads or usable_cores(), device=options.device)  # verifies the hashes
    embedder = load_embedder(folder, verify=False)
    device = _device(options)
    networks = _folded_pair(embedder, device, options)
    return Subject(
        name=engine.card.name,
        kind=SubjectKind.BUNDLE,
        source=text,
        sha256=engine.model_sha256,
        preprocessing=engine.preprocessing,
        dimension=engine.dimension,
        device=device,
        embed=networks.fast,
        judge=networks.exact,
        serve=engine.embed,
        runtime=f"ONNX Runtime ({engine.device})",
        precision=networks.precision,
        card=engine.card,
    )


def _backbone(text: str, options: SubjectOptions) -> Subject:
    name, file = _split_weights(text)
    loaded = load_library_model(name, weights=options.weights, file=file, size=options.size)
    device = _device(options)
    networks = _folded_pair(loaded.embedder, device, options)

    def serve(pixels: FloatArray) -> FloatArray:
        with torch.no_grad():
            found: FloatArray = networks.exact(torch.from_numpy(pixels).to(device)).cpu().numpy()
        return found

    return Subject(
        name=name if file is None else f"{name}@{file.name}",
        kind=SubjectKind.BACKBONE,
        source=text,
        sha256=loaded.sha256,
        preprocessing=_resized(loaded.preprocessing, options.resize),
        dimension=loaded.embedder.architecture.dimension,
        device=device,
        embed=networks.fast,
        judge=networks.exact,
        serve=serve,
        runtime=f"PyTorch ({device.type})",
        precision=networks.precision,
        notes=loaded.notes,
    )


def _onnx(text: str, options: SubjectOptions) -> Subject:
    path = expand_user(text)
    device = _device(options)
    file = OnnxFile(
        path,
        size=options.size,
        scale=options.scale,
        output=options.output,
        threads=options.threads or usable_cores(),
        cuda=device.type == "cuda",
        largest=options.largest_onnx,
    )

    def judge(images: Tensor) -> Tensor:
        return torch.from_numpy(file.embed(images.detach().float().cpu().contiguous().numpy())).to(images.device)

    subject = Subject(
        name=path.stem,
        kind=SubjectKind.ONNX,
        source=text,
        sha256=file.sha256,
        preprocessing=_resized(Preprocessing(resize=round(file.size * 8 / 7), crop=file.size), options.resize),
        dimension=file.dimension,
        device=device,
        embed=None,
        judge=judge,
        serve=file.embed,
        runtime=f"ONNX Runtime ({device.type})",
        precision="none",
        notes=tuple(file.notes),
    )
    try:
        return replace(subject, embed=file.differentiable(device), precision="float32")
    except ConversionError as error:
        return subject.without_gradients(str(error))
    except Exception as error:  # a graph that no test foresaw must not prevent black-box attacks
        _logger.exception("converting %s failed", path)
        return subject.without_gradients(f"the conversion to PyTorch failed ({first_line(error)})")


_LOADERS: Final[Mapping[SubjectKind, Callable[[str, SubjectOptions], Subject]]] = {
    SubjectKind.BUNDLE: _bundle,
    SubjectKind.BACKBONE: _backbone,
    SubjectKind.ONNX: _onnx,
}


@dataclass(frozen=True, kw_only=True)
class _FoldedPair:
    """The same network in the precision of gradients, and in float32."""

    fast: FoldedEmbedder
    exact: FoldedEmbedder
    precision: str


def _folded_pair(embedder: Embedder, device: torch.device, options: SubjectOptions) -> _FoldedPair:
    embedder = embedder.to(device).eval()
    exact = FoldedEmbedder(embedder)
    if not options.precision.is_bf16(device):
        return _FoldedPair(fast=exact, exact=exact, precision="float32")
    fast = FoldedEmbedder(embedder, dtype=torch.bfloat16)
    return _FoldedPair(fast=fast, exact=exact, precision="bf16 backbone, float32 head")


def _device(options: SubjectOptions) -> torch.device:
    if options.device is Device.CUDA and not torch.cuda.is_available():
        raise SubjectError("no CUDA device is available; choose auto or cpu, or check the driver with nvidia-smi")
    return torch.device("cuda" if options.device is not Device.CPU and torch.cuda.is_available() else "cpu")


def _resized(preprocessing: Preprocessing, resize: int | None) -> Preprocessing:
    return preprocessing if resize is None else replace(preprocessing, resize=resize)
