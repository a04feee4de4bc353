"""A model under audit, whatever it was loaded from, and how it is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.subjects.library_models import LibraryWeights
from hardrank.audit_app.subjects.onnx_file import FloatArray, PixelScale, check_gradient
from hardrank.audit_app.subjects.onnx_operators.call import ConversionError
from hardrank.models.card import Card
from hardrank.models.embedder import Embed
from hardrank.models.preprocessing import Preprocessing
from hardrank.serving.engine import Device
from hardrank.trainer.runtime.environment import Precision

Serve = Callable[[FloatArray], FloatArray]
"""(N,3,S,S) in [0,1] → (N,D) of norm 1."""


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

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise SubjectError(f"threads is {self.threads}; give 0 or more")
        if min(self.size or 1, self.resize or 1) < 1:
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


def check_names_differ(subjects: Sequence[Subject]) -> None:
    """Raise `SubjectError` unless there are models and their names differ."""
    if not subjects:
        raise SubjectError("there is no model to audit; name at least one")
    names = [subject.name for subject in subjects]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SubjectError(f"two models are called {twice[0]!r}; rename one: LABEL={subjects[0].source}")
