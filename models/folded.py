"""A frozen copy of an embedder for gradients with respect to pixels: the fast path of every attack."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hardrank.models.depthwise import has_own_gradients, own_gradients
from hardrank.models.embedder import Embedder

_PROBES: Final = 2
_TOLERANCE: Final = 1e-3
"""Relative to the largest feature: rounding stays far below it, a wrong fold far above."""


@dataclass(frozen=True)
class FoldedPair:
    """A convolution and the batch norm that alone consumes its output, by module path."""

    conv: str
    norm: str


@dataclass(frozen=True)
class Foldable:
    """What the convolutions of a backbone can contain besides."""

    pairs: tuple[FoldedPair, ...]
    first: str | None
    """Path of the convolution that alone sees the pixels, which can contain the division by their deviations."""
    features: Tensor
    """(N,F) of the pass that was observed."""


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
        self.head = copy.deepcopy(embedder.head).requires_grad_(False)
        self.register_buffer("mean", embedder.mean.clone(), persistent=False)
        self.register_buffer("std", embedder.std.clone(), persistent=False)
        self.backbone: nn.Module = copy.deepcopy(embedder.backbone).eval().requires_grad_(False)
        self._fold = find_foldable(self.backbone, (probe - embedder.mean) / embedder.std)
        _remove_norms(self.backbone, self._fold.pairs)
        self.refresh()
        self._format, found = _try_channels_last(self.backbone, self._shifted(probe))
        if not _agree(found, self._fold.features):
            self._fold = Foldable((), None, self._fold.features)
            self.backbone = copy.deepcopy(embedder.backbone).eval().requires_grad_(False)
            self._format, _ = _try_channels_last(self.backbone, self._shifted(probe))
        self._own_gradients = has_own_gradients(self.backbone)
        if self._format is torch.channels_last:
            _lay_out_channels_last(self.backbone)
        self.backbone.to(self._dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Embed `images` (N,3,H,W) in [0,1] → (N,D) on the unit sphere, in the precision of the head."""
        pixels = self._shifted(images).to(self._dtype, memory_format=self._format)
        with own_gradients(self._own_gradients and self._dtype is torch.bfloat16):
            features = self.backbone(pixels)
        return F.normalize(self.head(features.to(self.head.weight.dtype)), dim=1)

    @property
    def folded(self) -> int:
        """The number of batch norms that were folded."""
        return len(self._fold.pairs)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the present weights and statistics of the source, folding batch norm again."""
        folded = self._folded_state()
        for name, value in _state(self.backbone).items():
            value.copy_(folded[name])
        self.head.load_state_dict(self._source[0].head.state_dict())

    def embed_for_update(self, images: Tensor) -> Tensor:
        """Embed `images` (N,3,H,W) in [0,1] → (N,D) with gradients of the source's weights, for training them.

        The same function as the source in training mode with all batch norms in evaluation mode, up to rounding. Batch
        norm is folded here too: γ, β and the convolutions get their gradients through the folded weights, without a
        pass over the activations.
        """
        source = self._source[0]
        pixels = self._shifted(images).to(memory_format=self._format)
        train_except_norms(self.backbone)  # dropout works as in training
        low = torch.autocast(images.device.type, torch.bfloat16, enabled=self._dtype is torch.bfloat16)
        try:
            with low, own_gradients(self._own_gradients):
                features: Tensor = functional_call(self.backbone, self._folded_state(), (pixels,))
        finally:
            self.backbone.eval()
        return source.project(features.to(source.head.weight.dtype))

    def _shifted(self, images: Tensor) -> Tensor:
        """Normalize `images`, except for the division that the first convolution contains."""
        shifted = images - self.mean
        return shifted if self._fold.first else shifted / self.std

    def _folded_state(self) -> dict[str, Tensor]:
        """Return the source's present parameters and buffers under the names of the folded backbone."""
        backbone = self._source[0].backbone
        state = _state(backbone)
        for pair in self._fold.pairs:
            weight, bias = _folded(backbone.get_submodule(pair.conv), backbone.get_submodule(pair.norm))
            state[f"{pair.conv}.weight"], state[f"{pair.conv}.bias"] = weight, bias
        if self._fold.first:
            name = f"{self._fold.first}.weight"
            state[name] = state[name] / self.std
        return {name: state[name] for name in _state(self.backbone)}


def _folded(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that equals `conv` and then `norm`, differentiable in both."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    bias = -norm.running_mean * scale if conv.bias is None else (conv.bias - norm.running_mean) * scale
    if norm.bias is not None:
        bias = bias + norm.bias
    return conv.weight * scale.view(-1, *(1,) * (conv.weight.ndim - 1)), bias


def train_except_norms(module: nn.Module) -> None:
    """Put a network into training mode, with batch norm in evaluation mode."""
    module.train()
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.eval()


def find_foldable(backbone: nn.Module, pixels: Tensor) -> Foldable:
    """Find what can be folded into the convolutions of `backbone`.

    One forward pass is observed: the output of the convolution goes to the batch norm and nowhere else, both run once,
    and the batch norm uses its running statistics. Nothing is traced or rewritten, so that control flow, buffers and
    modules of any kind are no obstacle.

    Args:
        backbone: A network in evaluation mode.
        pixels: Normalized images (N,3,H,W) that it takes.
    """
    with torch.no_grad(), _Calls() as calls:
        features: Tensor = backbone(pixels)
    convs = {id(m.weight): path for path, m in backbone.named_modules() if isinstance(m, nn.Conv2d)}
    norms = {
        id(m.running_mean): path
        for path, m in backbone.named_modules()
        if isinstance(m, nn.BatchNorm2d) and _only_normalizes(m)
    }
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
    return Foldable(tuple(pairs), _first_convolution(calls.seen, pixels, convs, runs), features)


def _first_convolution(
    calls: "list[_Call]", pixels: Tensor, convs: Mapping[int, str], runs: Mapping[int, int]
) -> str | None:
    """Return the path of the one convolution that sees the pixels, if nothing else does."""
    for call in calls:
        if any(tensor is pixels for tensor in call.tensors):
            if call.function is not torch.conv2d or runs[id(pixels)] != 1 or call.tensors[0] is not pixels:
                return None
            weight = call.tensors[1]
            alone = runs[id(weight)] == 1 and weight.shape[1] == pixels.shape[1]
            return convs.get(id(weight)) if alone else None
    return None


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


_NORM_WITH_ACTIVATION: Final = ("timm.layers.norm_act", "BatchNormAct2d")


def _only_normalizes(norm: nn.BatchNorm2d) -> bool:
    """Whether a batch norm is of a type that is known to do no more than normalize and activate."""
    kind = type(norm)
    return kind is nn.BatchNorm2d or (kind.__module__, kind.__qualname__) == _NORM_WITH_ACTIVATION


def _remove_norms(backbone: nn.Module, pairs: Iterable[FoldedPair]) -> None:
    """Add a bias to each convolution of `pairs`, and replace each norm by what it does beside normalizing."""
    for pair in pairs:
        conv: Any = backbone.get_submodule(pair.conv)
        if conv.bias is None:
            conv.bias = nn.Parameter(torch.zeros_like(conv.weight[:, 0, 0, 0]), requires_grad=False)
        norm = backbone.get_submodule(pair.norm)
        parent, _, name = pair.norm.rpartition(".")
        rest = nn.Identity() if type(norm) is nn.BatchNorm2d else _ActivationOfNorm(norm)
        setattr(backbone.get_submodule(parent), name, rest)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _agree(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max().clamp(min=1e-6))


@torch.no_grad()
def _try_channels_last(backbone: nn.Module, pixels: Tensor) -> tuple[torch.memory_format, Tensor]:
    """Return the channels-last layout if `backbone` takes it, else the contiguous one, and its features."""
    try:
        return torch.channels_last, backbone(pixels.to(memory_format=torch.channels_last))
    except RuntimeError:  # such as a `view` of what is no longer contiguous
        return torch.contiguous_format, backbone(pixels)


def _lay_out_channels_last(backbone: nn.Module) -> None:
    for parameter in backbone.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
