"""A plain ONNX file as an embedder. The file may come from anyone, so it is checked before it runs."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.subjects.onnx_network import OnnxNetwork
from hardrank.audit_app.subjects.onnx_operators.call import ConversionError
from hardrank.audit_app.subjects.onnx_reading import first_line, printable, read_onnx
from hardrank.models.embedder import Embed
from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from hardrank.serving.engine import set_threads

FloatArray = npt.NDArray[np.float32]

DEFAULT_SIZE: Final = 224
"""Side of the input in pixels if the file does not fix it."""
_LARGEST_SIZE: Final = 1024
_LARGEST_DIMENSION: Final = 65_536
_ON_SPHERE: Final = 1e-3
_ALIKE: Final = 1e-3
_TRIAL: Final = 3
"""Number of noise images that are embedded to check a file."""
LARGEST_DIFFERENCE: Final = 1e-4
"""Largest difference of a coordinate between the embeddings of a converted network and those of ONNX Runtime."""
_CONSTANT: Final = 1e-6
_ERRORS_ONLY: Final = 3


class PixelScale(StrEnum):
    """Pixel values that a network expects."""

    UNIT = "unit"
    """0 to 1; normalization is inside the network."""
    SYMMETRIC = "symmetric"
    """−1 to 1."""
    IMAGENET = "imagenet"
    """0 to 1, minus ImageNet's mean, divided by its standard deviation."""
    BYTES = "bytes"
    """0 to 255."""


def _columns(values: tuple[float, ...]) -> FloatArray:
    return np.array(values, dtype=np.float32).reshape(1, 3, 1, 1)


_SHIFT_AND_SPREAD: Final = {
    PixelScale.UNIT: (_columns((0.0, 0.0, 0.0)), _columns((1.0, 1.0, 1.0))),
    PixelScale.SYMMETRIC: (_columns((0.5, 0.5, 0.5)), _columns((0.5, 0.5, 0.5))),
    PixelScale.IMAGENET: (_columns(IMAGENET_MEAN), _columns(IMAGENET_STD)),
    PixelScale.BYTES: (_columns((0.0, 0.0, 0.0)), _columns((1 / 255, 1 / 255, 1 / 255))),
}


@dataclass(frozen=True, kw_only=True)
class _Signature:
    """The input, and the output that is the embedding."""

    input: str
    output: str
    batch: int | None
    """Number of images per run; None for any."""
    size: int | None
    """Side of the input, pixels; None if not fixed."""


class OnnxFile:
    """An ONNX file as an embedding function.

    Args:
        path: The file.
        size: Side of the input in pixels, if the file does not fix it; `DEFAULT_SIZE` by default.
        scale: Pixel values that the file expects.
        output: Name of the output that is the embedding; None for the only one.
        threads: Threads of ONNX Runtime; 0 for one per core.
        cuda: Whether to run on a GPU.

    Raises:
        SubjectError: The file is too large, is not valid ONNX, keeps weights in other folders, or does not turn float
            images (N,3,S,S) into one vector each.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: int | None = None,
        scale: PixelScale = PixelScale.UNIT,
        output: str | None = None,
        threads: int = 0,
        cuda: bool = False,
    ) -> None:
        content = read_onnx(path)
        self.sha256: str = content.sha256
        """Of the file and of those with its weights, hexadecimal."""
        self.notes: list[str] = []
        """Assumptions and corrections, for reports."""
        signature = _signature(content.model, path, output)
        self.size: int = self._choose_size(path, signature.size, size)
        """S, side of the input, pixels."""
        self._scale = scale
        self._signature = signature
        self._one_by_one = False
        self._session = _open(path, content.data, threads, cuda=cuda)
        self._on_sphere = False
        self.dimension: int = self._try(path)
        """D, coordinates of an embedding."""
        self._model: onnx.ModelProto | None = content.model

    def embed(self, pixels: FloatArray) -> FloatArray:
        """Embed float32 (N,3,S,S) in [0,1] as (N,D) of norm 1; raises `SubjectError` if the outputs are invalid."""
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.size, self.size) or not len(pixels):
            raise SubjectError(f"pixels have the shape {pixels.shape}; the model needs (N,3,{self.size},{self.size})")
        raw = self._raw(pixels)
        if self._on_sphere:
            return raw
        lengths = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise SubjectError("the model gives an embedding of length 0, which has no direction to compare")
        normalized: FloatArray = (raw / lengths).astype(np.float32)
        return normalized

    def differentiable(self, device: torch.device) -> "DifferentiableOnnx":
        """Convert the graph to PyTorch, once; the converted network is checked against ONNX Runtime on noise.

        Raises:
            ConversionError: The graph cannot be converted, gives other embeddings, or has no gradient.
        """
        assert self._model is not None, "the graph was converted before"
        model, self._model = self._model, None
        shift, spread = (torch.from_numpy(one) for one in _SHIFT_AND_SPREAD[self._scale])
        graph = OnnxNetwork(model, input=self._signature.input, output=self._signature.output)
        network = DifferentiableOnnx(graph, shift=shift, spread=spread, normalize=not self._on_sphere).to(device)
        noise = self._noise()
        images, expected = (torch.from_numpy(values).to(device) for values in (noise, self.embed(noise)))
        # Many graphs take any number of images in PyTorch though the file fixes it; that is faster, so try it first.
        batch = 1 if self._one_by_one else self._signature.batch
        try:
            check_gradient(network, images, expected)
        except ConversionError:
            if batch is None:
                raise
            network.batch = batch
            check_gradient(network, images, expected)
        return network

    def _noise(self) -> FloatArray:
        return np.random.default_rng(0).random((_TRIAL, 3, self.size, self.size), dtype=np.float32)

    def _raw(self, pixels: FloatArray) -> FloatArray:
        """Run the session in batches that the file accepts; return its outputs (N,D)."""
        shift, spread = _SHIFT_AND_SPREAD[self._scale]
        inputs = ((pixels - shift) / spread).astype(np.float32)
        fixed = self._signature.batch
        step = 1 if self._one_by_one else fixed or len(inputs)
        found = []
        for begin in range(0, len(inputs), step):
            part = inputs[begin : begin + step]
            count = len(part)
            if fixed is not None and count < fixed:  # fill the batch with copies, whose outputs are dropped
                part = np.concatenate([part, np.repeat(part[-1:], fixed - count, axis=0)])
            feed = {self._signature.input: np.ascontiguousarray(part)}
            try:
                result = np.asarray(self._session.run([self._signature.output], feed)[0])
            except Exception as error:  # ONNX Runtime's exceptions have no common base class
                raise SubjectError(f"ONNX Runtime cannot run the model: {first_line(error)}") from error
            found.append(self._rows(result, len(part))[:count])
        raw = np.concatenate(found)
        if not np.isfinite(raw).all():
            raise SubjectError("the model gives embeddings that are not finite (NaN or infinity) for some images")
        return raw

    @staticmethod
    def _rows(result: npt.NDArray[Any], count: int) -> FloatArray:
        """Return the output as (N,D), without trailing axes of length 1 that pooling leaves."""
        while result.ndim > 2 and result.shape[-1] == 1:
            result = result[..., 0]
        if result.ndim != 2 or len(result) != count or not np.issubdtype(result.dtype, np.floating):
            raise SubjectError(
                f"the model's output is {result.dtype} {result.shape} for {count} images; an embedding model gives "
                "floats (N,D), one row for each image: choose another output, or export one that does"
            )
        if not 2 <= result.shape[1] <= _LARGEST_DIMENSION:
            raise SubjectError(f"the embedding has {result.shape[1]} coordinates; give 2 to {_LARGEST_DIMENSION}")
        return result.astype(np.float32)

    def _try(self, path: Path) -> int:
        """Embed noise and check the outputs; return D."""
        noise = self._noise()
        fixed = self._signature.batch
        try:
            if fixed is None and not self._takes(noise):
                self._one_by_one = True
                self.notes.append("the file declares any batch but accepts only one image, so images go one by one")
            lengths = np.linalg.norm(self._raw(noise), axis=1)
            together = self.embed(noise)
        except SubjectError as error:
            raise SubjectError(f"{path}: {error}") from error
        self._on_sphere = bool((np.abs(lengths - 1) <= _ON_SPHERE).all())
        if not self._on_sphere:
            self.notes.append(f"outputs have lengths around {lengths.mean():.3g}, so they are normalized to length 1")
        if fixed is not None:
            self.notes.append(f"the file accepts only batches of {fixed}, so smaller ones are filled with copies")
        if fixed != 1 and not self._one_by_one:
            alone = np.concatenate([self.embed(image[None]) for image in noise])
            if np.abs(alone - together).max() > _ALIKE:
                self._one_by_one = True
                self.notes.append("an embedding depends on the other images of its batch, so images go one by one")
        if np.abs(together - together[:1]).max() < _CONSTANT:
            raise SubjectError(f"{path} maps different images to one embedding, so it cannot rank anything")
        return int(together.shape[1])

    def _takes(self, pixels: FloatArray) -> bool:
        """Whether a batch runs, or else a single image does not run either."""
        try:
            self._raw(pixels)
        except SubjectError:
            try:
                self._raw(pixels[:1])
            except SubjectError:
                return True  # the batch size is not the reason
            return False
        return True

    def _choose_size(self, path: Path, fixed: int | None, requested: int | None) -> int:
        size = fixed or requested
        if size is None:
            size = DEFAULT_SIZE
            self.notes.append(f"the file does not fix the size of images; {size} pixels are used")
        if not 8 <= size <= _LARGEST_SIZE:
            raise SubjectError(f"{path}: images of {size} pixels a side; give 8 to {_LARGEST_SIZE}")
        return size


class DifferentiableOnnx(nn.Module):
    """A converted graph as an embedder: (N,3,S,S) in [0,1] → (N,D) of norm 1.

    Args:
        graph: The graph, on pixels of its own scale.
        shift: (1,3,1,1), subtracted from pixels.
        spread: (1,3,1,1), by which they are divided then.
        normalize: Whether outputs are normalized to length 1.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, graph: OnnxNetwork, *, shift: Tensor, spread: Tensor, normalize: bool) -> None:
        super().__init__()
        self.graph = graph
        self.normalize = normalize
        self.batch: int | None = None
        """Images that the graph takes at a time, to which smaller batches are filled with copies; None: any number."""
        self.register_buffer("shift", shift)
        self.register_buffer("spread", spread)
        self.eval()
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, differentiably."""
        inputs = (images - self.shift) / self.spread
        parts = inputs.split(self.batch or len(inputs))
        raw = torch.cat([self._part(part) for part in parts])
        return F.normalize(raw, dim=1) if self.normalize else raw

    def _part(self, part: Tensor) -> Tensor:
        count = len(part)
        if self.batch is not None and count < self.batch:
            part = torch.cat([part, part[-1:].expand(self.batch - count, -1, -1, -1)])
        found: Tensor = self.graph(part)
        while found.dim() > 2 and found.shape[-1] == 1:
            found = found[..., 0]
        if found.dim() != 2 or len(found) != len(part):
            raise ConversionError(f"the converted graph returns {tuple(found.shape)} for {len(part)} images")
        return found[:count].float()


def check_gradient(network: Embed, images: Tensor, expected: Tensor) -> float:
    """Compare a converted network with the original; return the largest difference of a coordinate.

    Args:
        network: The converted network.
        images: (N,3,S,S) in [0,1].
        expected: (N,D), the embeddings that the original gives.

    Raises:
        ConversionError: They differ by more than `LARGEST_DIFFERENCE`, or the network has no gradient.
    """
    pixels = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        found = network(pixels)
        difference = float((found.detach() - expected).abs().max())
        if not difference <= LARGEST_DIFFERENCE:
            raise ConversionError(
                f"the graph converted to PyTorch gives embeddings that differ by {difference:.1e} from ONNX Runtime's, "
                f"more than {LARGEST_DIFFERENCE:.0e}"
            )
        direction = torch.linspace(-1, 1, found.shape[1], device=found.device)
        (gradient,) = torch.autograd.grad((found * direction).sum(), pixels) if found.requires_grad else (None,)
    if gradient is None or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        raise ConversionError("the gradient of the network is zero or not finite")
    return difference


def _signature(model: onnx.ModelProto, path: Path, requested: str | None) -> _Signature:
    """Find the input and output; raises `SubjectError` unless they are those of an embedder."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise SubjectError(f"{path} has {len(inputs)} inputs; an embedding model has one, the images")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise SubjectError(f"{path} takes {kind.lower()} images; export it with a float32 input")
    shape = [dim.dim_value or None for dim in tensor.shape.dim]
    if len(shape) != 4 or shape[1] not in (3, None) or shape[2] != shape[3]:
        shown = ", ".join("?" if side is None else str(side) for side in shape)
        raise SubjectError(f"{path} takes an input ({shown}); images must be (N,3,S,S): channels first, and square")
    return _Signature(input=inputs[0].name, output=_output(model, path, requested), batch=shape[0], size=shape[2])


def _output(model: onnx.ModelProto, path: Path, requested: str | None) -> str:
    names = [value.name for value in model.graph.output]
    shown = ", ".join(map(printable, names[:8]))
    if requested is not None and requested not in names:
        raise SubjectError(f"{path} has no output {printable(requested)!r}; it has {shown}")
    if requested is None and len(names) != 1:
        raise SubjectError(f"{path} has {len(names)} outputs ({shown}); name the one that is the embedding")
    return requested or names[0]


def _open(path: Path, data: bytes, threads: int, *, cuda: bool) -> Any:
    options = onnxruntime.SessionOptions()
    set_threads(options, threads)
    options.log_severity_level = _ERRORS_ONLY
    # Results are judged in float32, which TF32 is not.
    graphics = [("CUDAExecutionProvider", {"use_tf32": "0"})] if cuda else []
    try:
        return onnxruntime.InferenceSession(data, options, providers=[*graphics, "CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise SubjectError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error
