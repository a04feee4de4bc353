"""Exports a trained embedder to ONNX, and verifies that both compute the same."""

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hardrank.models.bundle import ONNX, WEIGHTS
from hardrank.models.embedder import Embedder
from hardrank.models.errors import HardrankError
from hardrank.trainer.metric.distances import nearest, recall_at_1

INPUT: Final = "images"
OUTPUT: Final = "embeddings"
LARGEST_DIFFERENCE: Final = 1e-4
SAME_TOP10: Final = 0.999
_BATCH: Final = 64
"""Images that are embedded at a time, to compare."""
_TIED: Final = 2e-6
"""Difference of cosines below which items are tied within the rounding of float32; either order is right."""


class ExportError(HardrankError):
    """The export failed, or its result differs from the network."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How well ONNX Runtime agrees with PyTorch on the CPU in float32."""

    largest_difference: float
    """Largest absolute difference of a coordinate, over all images, with batches of 1, 7 and more."""
    recall_at_1_torch: float
    """Recall@1 of PyTorch's embeddings, 0 to 1."""
    recall_at_1_onnx: float
    """Recall@1 of ONNX Runtime's embeddings, 0 to 1."""
    same_top10: float
    """Share of queries with the same ten nearest items in the same order, except for ties, 0 to 1."""

    def failures(self) -> list[str]:
        """Return descriptions of the limits that are exceeded; NaN exceeds them."""
        failed = []
        if not self.largest_difference <= LARGEST_DIFFERENCE:
            failed.append(f"embeddings differ by up to {self.largest_difference:.1e} (limit {LARGEST_DIFFERENCE:g})")
        if self.recall_at_1_torch != self.recall_at_1_onnx:
            failed.append(
                f"Recall@1 is {self.recall_at_1_torch} in PyTorch and {self.recall_at_1_onnx} in ONNX Runtime"
            )
        if not self.same_top10 >= SAME_TOP10:
            failed.append(f"only {self.same_top10:.2%} of the top-10 lists agree (limit {SAME_TOP10:.1%})")
        return failed

    def as_dict(self) -> dict[str, float]:
        """Return plain values for the card."""
        return asdict(self)


def export_onnx(embedder: Embedder, path: Path) -> None:
    """Write an embedder as ONNX: float pixels in [0,1] (batch,3,H,W) → (batch,D), for any batch size.

    Raises:
        ExportError: the network cannot be exported, or the result is not valid ONNX.
    """
    import onnx

    size = embedder.architecture.image_size
    example = torch.rand(2, 3, size, size)
    quiet = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(quiet),
            redirect_stderr(quiet),
            # Fused attention returns other strides than its decomposition, which the exporter then cannot reshape.
            sdpa_kernel(SDPBackend.MATH),
        ):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                embedder.cpu().float().eval(),
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        program.save(str(path))
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the exporter raises its own errors and those of everything below it
        raise ExportError(f"{embedder.architecture.backbone} cannot be exported to ONNX: {error}") from error


def save_weights(embedder: Embedder, path: Path) -> None:
    """Write the state dict as safetensors."""
    save_file({name: value.detach().cpu().contiguous() for name, value in embedder.state_dict().items()}, path)


def measure_parity(embedder: Embedder, path: Path, images: Callable[[slice], Tensor], labels: Tensor) -> Parity:
    """Embed images with PyTorch and with ONNX Runtime, on the CPU, and compare the results.

    Args:
        embedder: The network; it is moved to the CPU.
        path: The exported file.
        images: Returns a slice of the N ≥ 2 images, (n,3,H,W) floats in [0,1].
        labels: (N,) classes.
    """
    session = _session(path)
    embedder = embedder.cpu().float().eval()
    by_torch: list[Tensor] = []
    by_onnx: list[Tensor] = []
    largest = 0.0
    for start in range(0, len(labels), _BATCH):
        chunk = images(slice(start, start + _BATCH))
        with torch.no_grad():
            by_torch.append(embedder(chunk))
        by_onnx.append(_embed(session, chunk))
        if start == 0:
            for size in (1, 7):
                largest = max(largest, _largest(_embed(session, chunk[:size]), by_torch[0][:size]))
    one, other = torch.cat(by_torch), torch.cat(by_onnx)
    by_torch_hits, by_onnx_hits = top1_hits(one, other, labels)
    return Parity(
        largest_difference=max(largest, _largest(one, other)),
        recall_at_1_torch=float(by_torch_hits.float().mean()),
        recall_at_1_onnx=float(by_onnx_hits.float().mean()),
        same_top10=float(_same_lists(one, other, k=min(10, len(labels) - 1)).float().mean()),
    )


def export(embedder: Embedder, folder: Path, images: Callable[[slice], Tensor], labels: Tensor) -> Parity:
    """Write model.onnx and weights.safetensors to `folder`; raises `ExportError` unless they agree (see `Parity`)."""
    export_onnx(embedder, folder / ONNX)
    save_weights(embedder, folder / WEIGHTS)
    parity = measure_parity(embedder, folder / ONNX, images, labels)
    if failures := parity.failures():
        raise ExportError(
            f"PyTorch and ONNX Runtime disagree on {embedder.architecture.backbone}: {'; '.join(failures)}"
        )
    return parity


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _embed(session: Any, images: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(session.run([OUTPUT], {INPUT: images.numpy()})[0]))


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def top1_hits(one: Tensor, other: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the top-1 item of each query has its class, (N,) bool, for both embeddings (N,D) of the images.

    Where the two top-1 items are tied within rounding, either is right, and both count the first.
    """
    itself = torch.arange(len(labels))
    hits = [recall_at_1(embeddings, embeddings, labels, itself, labels).bool() for embeddings in (one, other)]
    return hits[0], torch.where(_same_lists(one, other, k=1), hits[0], hits[1])


def _same_lists(one: Tensor, other: Tensor, *, k: int) -> Tensor:
    """Whether the k nearest items of each query are the same, (N,); items may differ where they are tied."""
    itself = torch.arange(len(one))
    first, second = nearest(one, one, itself, k), nearest(other, other, itself, k)
    return torch.stack([((one[first[q]] - one[second[q]]) @ one[q]).abs().le(_TIED).all() for q in range(len(one))])
