"""What makes a training step of a pretrained depthwise network fast on this machine?

    python benchmarks/update_step.py
    python benchmarks/update_step.py --tiny    # a try, in a minute

One update (loss and gradients of all weights, batch norm frozen) and one pass of an attack (gradients of the pixels),
in several forms that compute the same, in turns in one run: the contiguous and the channels-last layout, batch norm
folded into the convolutions and the depthwise gradients of `models/depthwise.py`, bf16 where the processor has it,
`torch.compile` where there is a compiler. The ratios are to the form that training uses; seconds are those of the
processor on one thread, which other programs disturb little. The last form is also timed with one thread and with all
of them, by the clock. The result goes to benchmarks/results/update_step.json.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from benchmarks.command import BenchmarkOptions, environment, parse_options
from hardrank.models.cores import usable_cores
from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.runtime.malloc import tune_allocator
from hardrank.trainer.training.precision import MixedPrecision, set_training_mode

TRAINING: Final = "folded, channels-last, widened depthwise"
"""The form of an update that training uses in float32."""
ATTACK: Final = "folded, channels-last"
"""The form of a pass of an attack."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"sizes": (64,), "batch": 2, "repetitions": 1, "compile": False}

    backbone: str = "timm/efficientnet_lite0"
    """The network; the weights do not matter and are random."""
    sizes: tuple[int, ...] = (96, 128)
    """Sides of the input, pixels."""
    batch: int = 16
    """Images of a step."""
    repetitions: int = 4
    """Timed calls of each form; the first is not counted."""
    compile: bool = True
    """Whether to try `torch.compile`, which takes minutes to compile."""


class Forms:
    """The forms of a step on the same images."""

    def __init__(self, options: Options, size: int) -> None:
        torch.manual_seed(0)
        architecture = Architecture(backbone=options.backbone, dimension=512, image_size=size)
        self.contiguous = build_embedder(architecture)
        self.embedder = build_embedder(architecture).to(memory_format=torch.channels_last)
        self.folded = FoldedEmbedder(self.embedder)
        self.images = torch.rand(options.batch, 3, size, size)
        self.channels_last = self.images.contiguous(memory_format=torch.channels_last)

    def updates(self, options: Options) -> dict[str, Callable[[], None]]:
        """The forms of an update."""
        folded, images = self.folded.embed_for_update, self.channels_last
        forms = {
            "contiguous": lambda: update(self.contiguous, self.contiguous, self.images),
            "channels-last": lambda: update(self.embedder, self.embedder, images),
            TRAINING: lambda: update(self.embedder, folded, images),
        }
        if torch.cpu._is_avx512_bf16_supported():
            low = MixedPrecision(self.embedder, enabled=True)
            forms["channels-last, bf16"] = lambda: update(self.embedder, low, images)
            twin = FoldedEmbedder(self.embedder, dtype=torch.bfloat16)
            forms[f"{TRAINING}, bf16"] = lambda: update(self.embedder, twin.embed_for_update, images)
        if options.compile and shutil.which("g++"):
            compiled: Any = torch.compile(self.embedder)
            forms["channels-last, torch.compile"] = lambda: update(self.embedder, compiled, images)
        return forms

    def attacks(self) -> dict[str, Callable[[], None]]:
        """The forms of a pass of an attack."""
        exact: Any = self.embedder
        forms = {
            "channels-last": lambda: attack(exact.eval(), self.channels_last),
            "folded, contiguous": lambda: attack(self.folded, self.images),
            ATTACK: lambda: attack(self.folded, self.channels_last),
        }
        if torch.cpu._is_avx512_bf16_supported():
            low = FoldedEmbedder(self.embedder, dtype=torch.bfloat16)
            forms["folded, channels-last, bf16"] = lambda: attack(low, self.channels_last)
        return forms


def update(embedder: Embedder, network: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Compute the gradients of all weights, with frozen batch norm."""
    set_training_mode(embedder, freeze_batch_norm=True)
    embedder.zero_grad(set_to_none=True)
    torch.autograd.backward(network(images).pow(3).sum())


def attack(network: nn.Module, images: Tensor) -> None:
    """Compute the gradients of the pixels."""
    network.requires_grad_(False)
    pixels = images.clone(memory_format=torch.preserve_format).requires_grad_(True)
    torch.autograd.grad(network(pixels).pow(3).sum(), pixels)
    if isinstance(network, Embedder):
        network.requires_grad_(True)


Steps = Mapping[str, Callable[[], object]]


def shortest(forms: Steps, repetitions: int, clock: Callable[[], float]) -> dict[str, float]:
    """Time the forms in turns; return the least seconds of each, since other programs only lengthen them."""
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repetitions + 1):
        for name, step in forms.items():
            began = clock()
            step()
            taken[name].append(clock() - began)
    return {name: min(values[1:]) for name, values in taken.items()}


def on_one_thread(forms: Steps, repetitions: int, reference: str) -> dict[str, dict[str, float]]:
    """Time the forms; return seconds of the processor, and the ratio to the reference."""
    torch.set_num_threads(1)
    found = shortest(forms, repetitions, time.process_time)
    return {
        name: {"seconds": round(value, 4), "ratio": round(value / found[reference], 2)} for name, value in found.items()
    }


def measure(options: Options, size: int) -> dict[str, Any]:
    """Measure all forms at one size."""
    forms = Forms(options, size)
    updates = forms.updates(options)

    def update_with(threads: int) -> None:
        torch.set_num_threads(threads)
        updates[TRAINING]()

    result: dict[str, Any] = {
        "update": on_one_thread(updates, options.repetitions, TRAINING),
        "attack": on_one_thread(forms.attacks(), options.repetitions, ATTACK),
    }
    threaded = {str(count): partial(update_with, count) for count in sorted({1, usable_cores()})}
    by_threads = shortest(threaded, options.repetitions, time.perf_counter)
    result["threads"] = {count: round(seconds, 4) for count, seconds in by_threads.items()}
    optimizers = {
        "fused Adam": torch.optim.Adam(forms.embedder.parameters(), lr=0.0, fused=True).step,
        "Adam": torch.optim.Adam(forms.embedder.parameters(), lr=0.0, fused=False).step,
    }
    result["optimizer"] = on_one_thread(optimizers, options.repetitions, "fused Adam")
    return result


def main() -> None:
    """Run the benchmark."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    tune_allocator()
    options.write(
        "update_step",
        {
            "command": "python benchmarks/update_step.py",
            "what": f"an update and a pass of an attack on {options.batch} images, in s; training has ratio 1",
            "backbone": options.backbone,
            "sizes": {str(size): measure(options, size) for size in options.sizes},
            **environment(),
        },
    )


if __name__ == "__main__":
    main()
