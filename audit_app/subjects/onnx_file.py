"""A plain ONNX file, perhaps a stranger's: checked before it runs, then run so that it behaves like an embedder."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from hardrank.audit_app.errors import SubjectError
from hardrank.models.embedder import IMAGENET_MEAN, IMAGENET_STD

Pixels = npt.NDArray[np.float32]
"""(N,3,H,W)."""

LARGEST_FILE: Final = 512 * 2**20
"""Bytes of a file that is read at all."""
DEFAULT_SIZE: Final = 224
"""Pixels; the side of the input where the file leaves it open."""
_LARGEST_SIZE: Final = 1024
_LARGEST_DIMENSION: Final = 65_536
_OUTSIDE: Final = onnx.TensorProto.EXTERNAL
_ON_SPHERE: Final = 1e-3
_ALIKE: Final = 1e-3
_TRIAL: Final = 3
_ERRORS_ONLY: Final = 3


class PixelScale(StrEnum):
    """What values a network expects of the pixels."""

    UNIT = "unit"
    """0 to 1; normalisation is inside the network."""
    SYMMETRIC = "symmetric"
    """−1 to 1."""
    IMAGENET = "imagenet"
    """0 to 1, less the mean of ImageNet's colours, by their deviation."""
    BYTES = "bytes"
    """0 to 255."""


def _columns(values: tuple[float, ...]) -> Pixels:
    return np.array(values, dtype=np.float32).reshape(1, 3, 1, 1)


_SHIFT_AND_SPREAD: Final = {
    PixelScale.UNIT: (_columns((0.0, 0.0, 0.0)), _columns((1.0, 1.0, 1.0))),
    PixelScale.SYMMETRIC: (_columns((0.5, 0.5, 0.5)), _columns((0.5, 0.5, 0.5))),
    PixelScale.IMAGENET: (_columns(IMAGENET_MEAN), _columns(IMAGENET_STD)),
    PixelScale.BYTES: (_columns((0.0, 0.0, 0.0)), _columns((1 / 255, 1 / 255, 1 / 255))),
}


@dataclass(frozen=True, kw_only=True)
class _Signature:
    """The one input and the one output that matter."""

    input: str
    output: str
    batch: int | None
    """Images of a call; None: any number."""
    size: int | None
    """Side of the input, pixels; None: left open."""


class OnnxFile:
    """An ONNX file as a function of images. Raises `SubjectError` for a file that cannot be one.

    The file is refused when it is larger than `largest` bytes, is no valid ONNX, keeps weights in other files, or
    does not turn float images (N,3,S,S) into one vector each.
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
        largest: int = LARGEST_FILE,
    ) -> None:
        """Check and load `path`; `size` is wanted where the file leaves the input's side open."""
        data = _read(path, largest)
        self.sha256: str = hashlib.sha256(data).hexdigest()
        """Of the file, hexadecimal."""
        self.notes: list[str] = []
        """What was taken for granted, or mended, for the reader of a report."""
        signature = _signature(_checked(path, data), path, output)
        self.size: int = self._choose_size(path, signature.size, size)
        """S, side of the input, pixels."""
        self._scale = scale
        self._signature = signature
        self._batch = signature.batch
        self._session = _open(path, data, threads, cuda=cuda)
        self._on_sphere = True
        self.dimension: int = self._try(path)
        """D, coordinates of an embedding."""

    def embed(self, pixels: Pixels) -> Pixels:
        """Embed float32 (N,3,S,S) in [0,1] as (N,D) of norm 1; raises `SubjectError` where the result is none."""
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.size, self.size) or not len(pixels):
            raise SubjectError(f"pixels have the shape {pixels.shape}; the model needs (N,3,{self.size},{self.size})")
        shift, spread = _SHIFT_AND_SPREAD[self._scale]
        scaled = ((pixels - shift) / spread).astype(np.float32)
        raw = self._run(scaled)
        if not np.isfinite(raw).all():
            raise SubjectError("the model gives embeddings that are no numbers (NaN or infinite) for some images")
        if self._on_sphere:
            return raw
        lengths = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise SubjectError("the model gives an embedding of length 0, which has no direction to compare")
        normalised: Pixels = (raw / lengths).astype(np.float32)
        return normalised

    def _run(self, inputs: Pixels) -> Pixels:
        """Run the session in pieces of the batch that the file asks for."""
        step = self._batch or len(inputs)
        found = []
        for begin in range(0, len(inputs), step):
            piece = inputs[begin : begin + step]
            missing = step - len(piece)
            if missing:  # a fixed batch is filled up with copies, which are thrown away
                piece = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)])
            feed = {self._signature.input: np.ascontiguousarray(piece)}
            try:
                result = np.asarray(self._session.run([self._signature.output], feed)[0])
            except Exception as error:  # ONNX Runtime raises classes of its own, without a common root
                raise SubjectError(f"ONNX Runtime cannot run the model: {_line(error)}") from error
            found.append(self._rows(result, len(piece))[: len(piece) - missing])
        return np.concatenate(found)

    @staticmethod
    def _rows(result: npt.NDArray[Any], count: int) -> Pixels:
        """Give the output as (N,D); trailing axes of length 1, as pooling leaves them, go."""
        while result.ndim > 2 and result.shape[-1] == 1:
            result = result[..., 0]
        if result.ndim != 2 or len(result) != count or not np.issubdtype(result.dtype, np.floating):
            raise SubjectError(
                f"the model's output is {result.dtype} {result.shape} for {count} images; an embedding model gives "
                "floats (N,D), one row for each image: choose another output, or export one that does"
            )
        if not 2 <= result.shape[1] <= _LARGEST_DIMENSION:
            raise SubjectError(f"an embedding of {result.shape[1]} coordinates cannot be ranked by; give 2 or more")
        return result.astype(np.float32)

    def _try(self, path: Path) -> int:
        """Embed some noise: the output must be as it should; gives D."""
        noise = np.random.default_rng(0).random((_TRIAL, 3, self.size, self.size), dtype=np.float32)
        self._on_sphere = False
        try:
            together = self.embed(noise)
        except SubjectError as error:
            raise SubjectError(f"{path}: {error}") from error
        shift, spread = _SHIFT_AND_SPREAD[self._scale]
        lengths = np.linalg.norm(self._run(((noise - shift) / spread).astype(np.float32)), axis=1)
        self._on_sphere = bool((np.abs(lengths - 1) <= _ON_SPHERE).all())
        if not self._on_sphere:
            self.notes.append(f"outputs have lengths around {lengths.mean():.3g}, so they are normalised to length 1")
        if self._batch is None:
            alone = np.concatenate([self.embed(image[None]) for image in noise])
            if np.abs(alone - together).max() > _ALIKE:
                self._batch = 1
                self.notes.append("an embedding depends on the other images of its batch, so images go one by one")
        elif self._batch > 1 or _TRIAL > 1:
            self.notes.append(f"the file fixes the batch at {self._batch}")
        if np.abs(together - together[:1]).max() < 1e-6:
            raise SubjectError(f"{path} embeds different images at the same place; it cannot rank anything")
        return int(together.shape[1])

    def _choose_size(self, path: Path, fixed: int | None, wanted: int | None) -> int:
        size = fixed or wanted
        if size is None:
            size = DEFAULT_SIZE
            self.notes.append(f"the file leaves the size of images open; {size} pixels were taken")
        if not 8 <= size <= _LARGEST_SIZE:
            raise SubjectError(f"{path}: images of {size} pixels a side; give 8 to {_LARGEST_SIZE}")
        return size


def _read(path: Path, largest: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(largest + 1)
    except OSError as error:
        raise SubjectError(f"{path} cannot be read ({error.strerror or error}); check its path and rights") from error
    if len(data) > largest:
        raise SubjectError(f"{path} is larger than {largest >> 20} MiB, the limit for an ONNX file")
    if not data:
        raise SubjectError(f"{path} is empty; give a whole ONNX file")
    return data


def _checked(path: Path, data: bytes) -> onnx.ModelProto:
    """Parse and check the file, without touching any other."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError has no public home
        raise SubjectError(f"{path} is no ONNX file, or a damaged one ({_line(error)})") from error
    if not model.graph.node:
        raise SubjectError(f"{path} is no ONNX file, or one without a network in it")
    outside = next((t.name for t in _tensors(model) if t.data_location == _OUTSIDE or t.external_data), None)
    if outside is not None:
        raise SubjectError(
            f"{path} keeps weights ({_short(outside)}) in another file, which is not read; put all of it in one: "
            "onnx.save(onnx.load(FILE), NEW_FILE, save_as_external_data=False)"
        )
    try:
        onnx.checker.check_model(data, full_check=True)
    except Exception as error:  # checker, inference and parser errors have no common root
        raise SubjectError(f"{path} is no valid ONNX ({_line(error)}); export it again") from error
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, in whatever graph or function they lie."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        part = pending.pop()
        yield from getattr(part, "initializer", ())
        for sparse in getattr(part, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in (a for node in part.node for a in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            pending += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _signature(model: onnx.ModelProto, path: Path, wanted: str | None) -> _Signature:
    """Find the input and output; raises `SubjectError` where they are not those of an embedder."""
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
        raise SubjectError(f"{path} takes an input ({shown}); images are (N,3,S,S): colour first, and square")
    return _Signature(input=inputs[0].name, output=_output(model, path, wanted), batch=shape[0], size=shape[2])


def _output(model: onnx.ModelProto, path: Path, wanted: str | None) -> str:
    names = [value.name for value in model.graph.output]
    shown = ", ".join(map(_short, names[:8]))
    if wanted is not None and wanted not in names:
        raise SubjectError(f"{path} has no output {_short(wanted)!r}; it has {shown}")
    if wanted is None and len(names) != 1:
        raise SubjectError(f"{path} has {len(names)} outputs ({shown}); say which one is the embedding")
    return wanted or names[0]


def _open(path: Path, data: bytes, threads: int, *, cuda: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common root
        raise SubjectError(f"ONNX Runtime cannot load {path}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """The first line of a message, without what a terminal or a page cannot show."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return _short(text.strip(), 200)


def _short(text: str, most: int = 60) -> str:
    shown = re.sub(r"[^\x20-\x7e\u00a0-\uffff]", "?", text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"
