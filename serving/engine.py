"""A bundle's network in ONNX Runtime: pixels → embeddings. Nothing here needs torch."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from hardrank.models.bundle import ONNX, preprocessing_of, verify_bundle
from hardrank.models.card import Card
from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import DEFAULT_LIMITS, DecodeLimits, Preprocessing, prepare

_ERRORS_ONLY: Final = 3


class EngineError(HardrankError):
    """A model that ONNX Runtime cannot run, a device that is not there, or pixels that do not fit."""


class Device(StrEnum):
    """Where a network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Engine:
    """The network of a bundle. `embed` may be called from several threads at once.

    Raises `hardrank.models.bundle.BundleError` for a damaged bundle, `EngineError` where it cannot be run.
    """

    def __init__(self, bundle: Path, *, threads: int = 0, device: Device = Device.AUTO) -> None:
        """Load and verify `bundle`; `threads` work on one batch (0: one for each core)."""
        if threads < 0:
            raise EngineError(f"threads is {threads}; give a number of threads, or 0 for one a core")
        self.card: Card = verify_bundle(bundle)
        """All that is known of the model."""
        self.model_sha256: str = self.card.files[ONNX].sha256
        """SHA-256 of model.onnx, hexadecimal."""
        self.preprocessing: Preprocessing = preprocessing_of(self.card)
        self.dimension: int = self.card.architecture.dimension
        """D, coordinates of an embedding."""
        self._session = _open(bundle / ONNX, threads, _providers(device))
        self._input, self._output = self._names(bundle)

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.card.name

    @property
    def device(self) -> Device:
        """Where the network runs."""
        return Device.CUDA if "CUDAExecutionProvider" in self._session.get_providers() else Device.CPU

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return (3,H,W) of an input."""
        return 3, self.preprocessing.crop, self.preprocessing.crop

    def prepare(self, data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS) -> npt.NDArray[np.float32]:
        """Turn the bytes of an image file into float32 (3,H,W) in [0,1]; raises `UndecodableImageError`."""
        return prepare(data, self.preprocessing, limits=limits)

    def embed(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Embed float32 (N,3,H,W) in [0,1] as (N,D) of norm 1, N ≥ 1; raises `EngineError` for another shape."""
        if pixels.ndim != 4 or pixels.shape[1:] != self.input_shape or not len(pixels):
            wanted = ",".join(map(str, self.input_shape))
            raise EngineError(f"pixels have the shape {pixels.shape}; {self.name} needs (N,{wanted}) with N ≥ 1")
        inputs = {self._input: np.ascontiguousarray(pixels, dtype=np.float32)}
        return np.asarray(self._session.run([self._output], inputs)[0], dtype=np.float32)

    def _names(self, bundle: Path) -> tuple[str, str]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        fits = (
            len(inputs) == len(outputs) == 1
            and tuple(inputs[0].shape[1:]) == self.input_shape
            and tuple(outputs[0].shape[1:]) == (self.dimension,)
        )
        if not fits:
            raise EngineError(f"{bundle / ONNX} does not have the input and output that its card describes")
        return inputs[0].name, outputs[0].name


def _open(path: Path, threads: int, providers: list[str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common root
        raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error


def _providers(device: Device) -> list[str]:
    """Execution providers in order of preference. Which ones work is known only once a session is open."""
    there = onnxruntime.get_available_providers()
    if device is Device.CPU or (device is Device.AUTO and not _has_gpu()):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in there or not _has_gpu():
        raise EngineError("no CUDA device is at hand for ONNX Runtime: choose auto or cpu, or check nvidia-smi")
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _has_gpu() -> bool:
    """Whether a CUDA device is there; asking ONNX Runtime itself would print its loader's complaints."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and Path("/dev/nvidiactl").exists()
