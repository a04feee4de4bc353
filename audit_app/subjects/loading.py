"""Loads models under audit: bundles, networks of timm and torchvision, and plain ONNX files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.subjects.library_models import load_library_model
from hardrank.audit_app.subjects.model_names import kind_of, split_label, split_weights
from hardrank.audit_app.subjects.onnx_file import FloatArray, OnnxFile
from hardrank.audit_app.subjects.onnx_operators.call import ConversionError
from hardrank.audit_app.subjects.onnx_reading import first_line
from hardrank.audit_app.subjects.subject import Subject, SubjectKind, SubjectOptions, check_names_differ
from hardrank.models.bundle import CARD, load_embedder
from hardrank.models.cores import usable_cores
from hardrank.models.embedder import Embedder
from hardrank.models.files import expand_user
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import Preprocessing
from hardrank.serving.engine import Device, Engine

_logger = logging.getLogger(__name__)


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
    label, place = split_label(text)
    subject = _LOADERS[kind_of(place)](place, options)
    return replace(subject, name=label or subject.name)


def load_subjects(texts: Sequence[str], options: SubjectOptions | None = None) -> list[Subject]:
    """Load several models; raises `SubjectError` if two have the same name."""
    subjects = [load_subject(text, options) for text in texts]
    check_names_differ(subjects)
    return subjects


def _bundle(text: str, options: SubjectOptions) -> Subject:
    folder = expand_user(text)
    folder = folder.parent if folder.name == CARD else folder
    engine = Engine(folder, threads=options.threads or usable_cores(), device=options.device)  # verifies the hashes
    embedder = load_embedder(folder, verify=False)
    device = _device(options)
    fast, exact, precision = _folded_pair(embedder, device, options)
    return Subject(
        name=engine.card.name,
        kind=SubjectKind.BUNDLE,
        source=text,
        sha256=engine.model_sha256,
        preprocessing=engine.preprocessing,
        dimension=engine.dimension,
        device=device,
        embed=fast,
        judge=exact,
        serve=engine.embed,
        runtime=f"ONNX Runtime ({engine.device})",
        precision=precision,
        card=engine.card,
    )


def _backbone(text: str, options: SubjectOptions) -> Subject:
    name, file = split_weights(text)
    loaded = load_library_model(name, weights=options.weights, file=file, size=options.size)
    device = _device(options)
    fast, exact, precision = _folded_pair(loaded.embedder, device, options)

    def serve(pixels: FloatArray) -> FloatArray:
        with torch.no_grad():
            found: FloatArray = exact(torch.from_numpy(pixels).to(device)).cpu().numpy()
        return found

    return Subject(
        name=name if file is None else f"{name}@{file.name}",
        kind=SubjectKind.BACKBONE,
        source=text,
        sha256=loaded.sha256,
        preprocessing=_resized(loaded.preprocessing, options.resize),
        dimension=loaded.embedder.architecture.dimension,
        device=device,
        embed=fast,
        judge=exact,
        serve=serve,
        runtime=f"PyTorch ({device.type})",
        precision=precision,
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


def _folded_pair(
    embedder: Embedder, device: torch.device, options: SubjectOptions
) -> tuple[FoldedEmbedder, FoldedEmbedder, str]:
    """Return the network in the precision of gradients, the same in float32, and the name of that precision."""
    embedder = embedder.to(device).eval()
    exact = FoldedEmbedder(embedder)
    if not options.precision.is_bf16(device):
        return exact, exact, "float32"
    return FoldedEmbedder(embedder, dtype=torch.bfloat16), exact, "bf16 backbone, float32 head"


def _device(options: SubjectOptions) -> torch.device:
    if options.device is Device.CUDA and not torch.cuda.is_available():
        raise SubjectError("no CUDA device is available; choose auto or cpu, or check the driver with nvidia-smi")
    return torch.device("cuda" if options.device is not Device.CPU and torch.cuda.is_available() else "cpu")


def _resized(preprocessing: Preprocessing, resize: int | None) -> Preprocessing:
    return preprocessing if resize is None else replace(preprocessing, resize=resize)
