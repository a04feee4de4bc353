"""The network of a bundle in ONNX Runtime: pixels → embeddings, without PyTorch."""

import threading
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from hardrank.models.bundle import ONNX, preprocessing_of, verify_bundle
from hardrank.models.card import Card
from hardrank.models.cores import cores_of_threads, staying_on, usable_cores
from hardrank.models.decode_limits import DEFAULT_LIMITS, DecodeLimits
from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import Preprocessing, prepare, to_unit

_ERRORS_ONLY: Final = 3
_CPU: Final = ["CPUExecutionProvider"]
_CUDA: Final = "CUDAExecutionProvider"
_SPIN_US: Final = 100
"""Microseconds that a thread of ONNX Runtime waits awake for the others of an operation, where it has to pass large
batches. They come within that time unless another thread of the server has taken a core; waiting longer would take
cores from it."""
_BUFFERED_IMAGES: Final = 8
"""Pixels of so many images are converted in memory that the thread keeps."""
_MAX_BYTES_TWICE: Final = 512 * 2**20
"""Largest ONNX file that is held twice."""


class EngineError(HardrankError):
    """ONNX Runtime cannot run the model, the device is not available, or the pixels have the wrong shape."""


class Device(StrEnum):
    """Where a network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Engine:
    """The network of a bundle. `embed` is thread-safe."""

    def __init__(
        self, bundle: Path, *, threads: int = 0, device: Device = Device.AUTO, side_by_side: bool = False
    ) -> None:
        """Load and verify a bundle.

        Args:
            bundle: Folder of the bundle.
            threads: Threads that work on one batch; 0: `hardrank.models.cores.usable_cores()`.
            device: Where to run the network; `Device.AUTO`: on a GPU if there is one.
            side_by_side: On a CPU, hold the network a second time for `embed_in_one_thread`, unless it is larger than
                512 MiB. Threads with images of their own do not wait for each other after each operation: more images
                per second, while other threads of the process use the cores too.

        Raises:
            BundleError: The bundle is missing or damaged (`hardrank.models.bundle.BundleError`).
            EngineError: ONNX Runtime cannot run it, or the device is not available.
        """
        if threads < 0:
            raise EngineError(f"threads is {threads}; use a number of threads, or 0 for one per usable core")
        self.card: Card = verify_bundle(bundle)
        """The model card."""
        self.model_sha256: str = self.card.files[ONNX].sha256
        """SHA-256 of model.onnx, hexadecimal."""
        self.preprocessing: Preprocessing = preprocessing_of(self.card)
        self.dimension: int = self.card.architecture.dimension
        """D, the length of an embedding."""
        self.threads: int = threads or usable_cores()
        """Threads that work on one batch on a CPU."""
        providers = _providers(device)
        twice = side_by_side and providers == _CPU and (bundle / ONNX).stat().st_size <= _MAX_BYTES_TWICE
        self._session = _open(bundle / ONNX, self.threads, providers, spin_us=None if twice else _SPIN_US)
        self._input, self._output = self._names(bundle)
        self._callers_core = cores_of_threads(self.threads)[:1] if self.device is Device.CPU else ()
        self._buffers = threading.local()
        self.side_by_side: bool = twice
        """Whether the network is held a second time, for `embed_in_one_thread`."""
        self._single: Any = None
        if twice:
            self._single = _open(bundle / ONNX, 1, providers) if self.threads > 1 else self._session

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.card.name

    @property
    def device(self) -> Device:
        """Where the network runs."""
        return Device.CUDA if _CUDA in self._session.get_providers() else Device.CPU

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (3,H,W) of one input."""
        return 3, self.preprocessing.crop, self.preprocessing.crop

    def prepare(self, data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS) -> npt.NDArray[np.float32]:
        """Decode and preprocess an image file.

        Args:
            data: Bytes of the file.
            limits: Largest image to decode.

        Returns:
            Float32 (3,H,W) in [0,1].

        Raises:
            UndecodableImageError: The bytes are not an image, or it exceeds `limits`.
        """
        return prepare(data, self.preprocessing, limits=limits)

    def embed(self, pixels: npt.NDArray[np.float32] | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed a batch of preprocessed images.

        Args:
            pixels: (N,3,H,W), N ≥ 1: float32 in [0,1], or uint8 in 0 … 255.

        Returns:
            Float32 (N,D), each row of norm 1.

        Raises:
            EngineError: `pixels` has another shape.
        """
        self._check(pixels)
        # The caller computes too. Woken on the core of another of the threads, it would wait for that one.
        with staying_on(self._callers_core):
            return self._run(self._session, pixels)

    def embed_in_one_thread(self, pixels: npt.NDArray[np.float32] | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """As `embed`, in the calling thread alone. Raises `EngineError` if the engine is not `side_by_side`."""
        if self._single is None:
            raise EngineError(f"{self.name} is not held a second time; use embed")
        self._check(pixels)
        return self._run(self._single, pixels)

    def _check(self, pixels: npt.NDArray[Any]) -> None:
        if pixels.ndim != 4 or pixels.shape[1:] != self.input_shape or not len(pixels):
            expected = ",".join(map(str, self.input_shape))
            raise EngineError(f"pixels has the shape {pixels.shape}; {self.name} needs (N,{expected}) with N ≥ 1")

    def _run(self, session: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if pixels.dtype == np.uint8:
            pixels = to_unit(pixels, out=self._floats(len(pixels)))
        inputs = {self._input: np.ascontiguousarray(pixels, dtype=np.float32)}
        return np.asarray(session.run([self._output], inputs)[0], dtype=np.float32)

    def _floats(self, images: int) -> npt.NDArray[np.float32] | None:
        """Return room for so many images in a buffer of this thread: new memory takes longer than the conversion."""
        if images > _BUFFERED_IMAGES:
            return None
        if not hasattr(self._buffers, "floats"):
            self._buffers.floats = np.empty((_BUFFERED_IMAGES, *self.input_shape), dtype=np.float32)
        room: npt.NDArray[np.float32] = self._buffers.floats[:images]
        return room

    def _names(self, bundle: Path) -> tuple[str, str]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        fits = (
            len(inputs) == len(outputs) == 1
            and tuple(inputs[0].shape[1:]) == self.input_shape
            and tuple(outputs[0].shape[1:]) == (self.dimension,)
        )
        if not fits:
            raise EngineError(f"the input or output of {bundle / ONNX} does not match its model card; export it again")
        return inputs[0].name, outputs[0].name


def set_threads(options: Any, threads: int) -> None:
    """Let a session of ONNX Runtime compute with `threads` threads, each on a core of its own if that takes all cores.

    `options` are its `onnxruntime.SessionOptions`.
    """
    options.intra_op_num_threads = threads
    if others := cores_of_threads(threads)[1:]:  # the first thread is the caller's
        affinities = ";".join(str(core + 1) for core in others)  # ONNX Runtime counts from 1
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)


def _open(path: Path, threads: int, providers: list[str], *, spin_us: int | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    set_threads(options, threads)
    if spin_us is not None:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(spin_us))
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between passes
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error


def _providers(device: Device) -> list[str]:
    """Return execution providers in order of preference. Only opening a session tells which of them work."""
    has_gpu = _has_gpu()
    if device is Device.CPU or (device is Device.AUTO and not has_gpu):
        return _CPU
    if not has_gpu:
        raise EngineError(
            "no CUDA device is available to ONNX Runtime; use the device auto or cpu, or check nvidia-smi"
        )
    return [_CUDA, *_CPU]


def _has_gpu() -> bool:
    """Whether there is a CUDA device; asking ONNX Runtime itself would print error messages of its loader."""
    return _CUDA in onnxruntime.get_available_providers() and Path("/dev/nvidiactl").exists()
