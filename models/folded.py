"""A frozen, faster copy of an embedder for gradients with respect to pixels, as attacks need them."""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hardrank.models.embedder import Embedder


@dataclass(frozen=True)
class _Pair:
    """A convolution and the batch norm that is the only consumer of its output, by module path."""

    conv: str
    norm: str


class FoldedEmbedder(nn.Module):
    """φ in evaluation mode with batch norm folded into the convolutions, channels-last, without parameter gradients.

    It equals `embedder.eval()` up to rounding. With `dtype=torch.bfloat16` the backbone runs in bf16; normalisation and
    head stay in float32. `refresh()` copies the weights of `embedder` after an update, without tracing again.
    """

    def __init__(self, embedder: Embedder, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self._source = [embedder]  # in a list, so that the source does not become a submodule
        self._dtype = dtype or embedder.head.weight.dtype
        frozen = copy.deepcopy(embedder.backbone).eval().requires_grad_(False)
        self._pairs: list[_Pair] = []
        try:
            traced = _trace(frozen)
        except Exception:  # data-dependent control flow: run the backbone unfolded, only slower
            self.backbone: nn.Module = frozen
        else:
            self._pairs = _fold_graph(traced)
            self.backbone = traced
        device = embedder.head.weight.device
        self.backbone.to(device, self._dtype).to(memory_format=torch.channels_last)
        self.head = copy.deepcopy(embedder.head).requires_grad_(False)
        self.register_buffer("mean", embedder.mean.clone(), persistent=False)
        self.register_buffer("std", embedder.std.clone(), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.refresh()

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,H,W) in [0,1] → (N,D) on the unit sphere, in the head's precision."""
        pixels = ((images - self.mean) / self.std).to(self._dtype, memory_format=torch.channels_last)
        return F.normalize(self.head(self.backbone(pixels).to(self.head.weight.dtype)), dim=1)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the current weights and statistics of the source and fold batch norm again."""
        source = self._source[0]
        folded = {pair.conv for pair in self._pairs}
        norms = {pair.norm for pair in self._pairs}
        own = dict(self.backbone.named_parameters()) | dict(self.backbone.named_buffers())
        for name, value in (*source.backbone.named_parameters(), *source.backbone.named_buffers()):
            owner = name.rpartition(".")[0]
            if owner not in folded and owner not in norms:
                own[name].copy_(value)
        for pair in self._pairs:
            conv, norm = source.backbone.get_submodule(pair.conv), source.backbone.get_submodule(pair.norm)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            own[f"{pair.conv}.weight"].copy_(weight)
            own[f"{pair.conv}.bias"].copy_(bias)
        self.head.load_state_dict(source.head.state_dict())


_TRACING: Final = threading.Lock()


class _Tracer(fx.Tracer):
    """Traces only the calls of its own thread.

    While a trace runs, PyTorch patches module calls globally, so calls from other threads reach the tracer too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def _trace(module: nn.Module) -> fx.GraphModule:
    """Trace a module, one at a time: concurrent traces would record each other's calls."""
    with _TRACING:
        tracer = _Tracer()
        graph = tracer.trace(module)
        return fx.GraphModule(tracer.root, graph, type(module).__name__)


def _fold_graph(traced: fx.GraphModule) -> list[_Pair]:
    """Remove each batch norm that follows a convolution from the graph, and add a bias to the convolution."""
    modules = dict(traced.named_modules())
    pairs = []
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.args else None
        if node.op != "call_module" or type(modules.get(str(node.target))) is not nn.BatchNorm2d:
            continue
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = modules.get(str(before.target)), modules[str(node.target)]
        if type(conv) is not nn.Conv2d or not norm.track_running_stats:
            continue
        if conv.bias is None:
            conv.bias = nn.Parameter(torch.zeros(conv.out_channels), requires_grad=False)
        pairs.append(_Pair(str(before.target), str(node.target)))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return pairs
