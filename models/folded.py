"""A frozen copy of an embedder for gradients with respect to pixels: the fast path of every attack."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from hardrank.models.embedder import Embedder

_PROBES: Final = 2
_TOLERANCE: Final = 1e-3
"""Relative to the largest feature: rounding stays far below it, a wrong fold far above."""


@dataclass(frozen=True)
class FoldedPair:
    """A convolution and the batch norm that alone consumes its output, by module path."""

    conv: str
    norm: str


class FoldedEmbedder(nn.Module):
    """φ in evaluation mode, without parameter gradients, with batch norm folded into the convolutions where possible.

    The same function as `embedder.eval()` up to rounding. What cannot be folded runs as it is. Convolutions run in
    the channels-last layout, unless the network does not support it.

    Args:
        embedder: The network to copy. It is not changed.
        dtype: Precision of the backbone; `torch.bfloat16` where the hardware gains from it. Normalization and head
            stay in the precision of the head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, embedder: Embedder, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self._source = [embedder]  # in a list: the source is not a submodule of its copy
        self._dtype = dtype or embedder.head.weight.dtype
        size = embedder.architecture.image_size
        probe = torch.rand(_PROBES, 3, size, size, generator=torch.Generator().manual_seed(0)).to(embedder.mean)
        pixels = (probe - embedder.mean) / embedder.std
        self.head = copy.deepcopy(embedder.head).requires_grad_(False)
        self.register_buffer("mean", embedder.mean.clone(), persistent=False)
        self.register_buffer("std", embedder.std.clone(), persistent=False)
        reference = copy.deepcopy(embedder.backbone).eval().requires_grad_(False)
        self._pairs: tuple[FoldedPair, ...] = foldable_pairs(reference, pixels)
        self.backbone: nn.Module = _without_norms(copy.deepcopy(reference), self._pairs)
        self.refresh()
        with torch.no_grad():
            expected = reference(pixels)
            if not _agree(self.backbone(pixels), expected):
                self._pairs, self.backbone = (), reference
            self._format = _to_channels_last(self.backbone, pixels)
        self.backbone.to(self._dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Embed `images` (N,3,H,W) in [0,1] → (N,D) on the unit sphere, in the precision of the head."""
        pixels = ((images - self.mean) / self.std).to(self._dtype, memory_format=self._format)
        return F.normalize(self.head(self.backbone(pixels).to(self.head.weight.dtype)), dim=1)

    @property
    def folded(self) -> int:
        """The number of batch norms that were folded."""
        return len(self._pairs)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the present weights and statistics of the source, folding batch norm again."""
        source = self._source[0]
        state = _state(source.backbone)
        convs = {pair.conv for pair in self._pairs}
        for name, value in _state(self.backbone).items():
            if name.rpartition(".")[0] not in convs:
                value.copy_(state[name])
        for pair in self._pairs:
            conv: Any = source.backbone.get_submodule(pair.conv)
            norm: Any = source.backbone.get_submodule(pair.norm)
            own: Any = self.backbone.get_submodule(pair.conv)
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            own.weight.copy_(weight)
            own.bias.copy_(bias)
        self.head.load_state_dict(source.head.state_dict())


def foldable_pairs(backbone: nn.Module, pixels: Tensor) -> tuple[FoldedPair, ...]:
    """Return the convolutions and batch norms of `backbone` that can become one convolution each.

    One forward pass is observed: the output of the convolution goes to the batch norm and nowhere else, both run once,
    and the batch norm uses its running statistics. Nothing is traced or rewritten, so that control flow, buffers and
    modules of any kind are no obstacle.

    Args:
        backbone: A network in evaluation mode.
        pixels: Normalized images (N,3,H,W) that it takes.
    """
    with torch.no_grad(), _Calls() as calls:
        backbone(pixels)
    convs = {id(m.weight): path for path, m in backbone.named_modules() if isinstance(m, nn.Conv2d)}
    norms = {id(m.running_mean): path for path, m in backbone.named_modules() if _replacement(m)}
    runs = Counter(id(tensor) for call in calls.seen for tensor in call.tensors)
    pairs = []
    for call in calls.seen:
        if call.function is not torch.conv2d or runs[id(call.output)] != 1:
            continue
        consumer = next(later for later in calls.seen if any(t is call.output for t in later.tensors))
        weight, statistics = call.tensors[1], consumer.tensors[1:2]
        if consumer.function is not F.batch_norm or runs[id(weight)] != 1 or id(weight) not in convs:
            continue
        if statistics and id(statistics[0]) in norms and runs[id(statistics[0])] == 1:
            pairs.append(FoldedPair(convs[id(weight)], norms[id(statistics[0])]))
    return tuple(pairs)


@dataclass(frozen=True)
class _Call:
    function: Callable[..., Any]
    tensors: tuple[Tensor, ...]
    """The tensors among its arguments, in their order."""
    output: Any


class _Calls(TorchFunctionMode):
    """Records the functions that its own thread calls, with their tensors, which therefore keep their identity."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[_Call] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if any(True for _ in _tensors(output)):  # else it asked for a shape or a type, not for values
            self.seen.append(_Call(func, tuple(_tensors((args, kwargs))), output))
        return output


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for part in value:
            yield from _tensors(part)


class _ActivationOfNorm(nn.Module):
    """What remains of timm's `BatchNormAct2d` without the norm, under the same names."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) → (N,C,H,W)."""
        activated: Tensor = self.act(self.drop(x))
        return activated


def _replacement(norm: nn.Module) -> nn.Module | None:
    """What takes the place of a folded batch norm; None for a subclass that may do more than normalize."""
    kind = type(norm)
    if kind is nn.BatchNorm2d:
        return nn.Identity()
    if (kind.__module__, kind.__qualname__) == ("timm.layers.norm_act", "BatchNormAct2d"):
        return _ActivationOfNorm(norm)
    return None


def _without_norms(backbone: nn.Module, pairs: Iterable[FoldedPair]) -> nn.Module:
    """Add a bias to each convolution of `pairs`, and replace each norm."""
    for pair in pairs:
        conv: Any = backbone.get_submodule(pair.conv)
        if conv.bias is None:
            conv.bias = nn.Parameter(torch.zeros_like(conv.weight[:, 0, 0, 0]), requires_grad=False)
        norm = backbone.get_submodule(pair.norm)
        parent, _, name = pair.norm.rpartition(".")
        setattr(backbone.get_submodule(parent), name, _replacement(norm))
    return backbone


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _agree(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max().clamp(min=1e-6))


def _to_channels_last(backbone: nn.Module, pixels: Tensor) -> torch.memory_format:
    """Lay the weights of convolutions out channels-last and return that layout, if `backbone` can run in it."""
    try:
        backbone(pixels.to(memory_format=torch.channels_last))
    except RuntimeError:  # such as a `view` of what is no longer contiguous
        return torch.contiguous_format
    for parameter in backbone.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return torch.channels_last
