"""Faster and safer gradients of convolutions on the CPU, where its library (oneDNN) lacks a kernel.

- Depthwise, maps smaller than the window, such as 4×4 maps and 5×5 windows at the end of an EfficientNet: without
  AVX-512, the weight gradient takes several times as long. Zeros beside the maps widen them to the window's size and
  change no sum.
- Depthwise, bf16, with a stride or a window above 3×3: gradients take several times as long as in float32, also with
  AMX. They are computed in float32 (`benchmarks/update_step.py`).
- Strided 1×1 convolutions of few channels, such as the branch of RepVGG that sees the image: in the channels-last
  layout, the library writes outside its memory when it computes the weight gradient. Taking the pixels first that the
  stride leaves is the same convolution without a stride.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_FEW: Final = 8
"""Channels."""


class DepthwiseGradients(TorchFunctionMode):
    """Inside this context, convolutions on the CPU get the gradients of this module.

    They are the same up to rounding.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7:
            images, weight, bias, stride, padding, _, groups = args
            if _is_depthwise(*args) and (_lacks_bf16_kernel(*args) or _lacks_small_kernel(*args)):
                return _Depthwise.apply(images, weight, bias, stride, padding, groups)
            if _is_strided_point(*args):
                return func(images[..., :: stride[0], :: stride[1]], weight, bias, (1, 1), *args[4:])
        return func(*args, **(kwargs or {}))


def has_own_gradients(network: nn.Module) -> bool:
    """Whether `network` has convolutions for which `DepthwiseGradients` may matter."""
    return any(
        conv.groups > 1 or (conv.kernel_size == (1, 1) and conv.in_channels < _FEW and max(conv.stride) > 1)
        for conv in network.modules()
        if isinstance(conv, nn.Conv2d)
    )


def own_gradients(needed: bool) -> AbstractContextManager[object]:
    """`DepthwiseGradients` if needed: it sees every function call, which takes time also where it changes nothing."""
    return DepthwiseGradients() if needed else nullcontext()


def _is_depthwise(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    if not (groups == images.shape[1] == weight.shape[0] > 1 and images.device.type == "cpu"):
        return False
    return not isinstance(padding, str) and tuple(dilation) == (1, 1)


def _lacks_small_kernel(images: Tensor, weight: Tensor, *_: Any) -> bool:
    """Whether the maps are smaller than the window, in float32, and the weight has a gradient."""
    small = images.shape[2] < weight.shape[2] or images.shape[3] < weight.shape[3]
    return small and weight.requires_grad and images.dtype == torch.float32


def _lacks_bf16_kernel(images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, *_: Any) -> bool:
    """Whether the convolution runs in bf16, with a stride or a window above 3×3, and anything has a gradient."""
    cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    low = images.dtype == torch.bfloat16 or (cast and images.dtype == torch.float32)
    return low and (max(stride) > 1 or max(weight.shape[2:]) > 3) and (images.requires_grad or weight.requires_grad)


def _is_strided_point(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    """Whether this is a 1×1 convolution of few channels with a stride, trained on the CPU."""
    if weight.shape[2:] != (1, 1) or groups != 1 or isinstance(padding, str) or any(padding):
        return False
    few = images.shape[1] < _FEW and weight.requires_grad and images.device.type == "cpu"
    return few and max(stride) > 1


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, groups: int
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.options = (stride, padding, groups)
        return torch.conv2d(images, weight, bias, stride, padding, (1, 1), groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        (gradient,) = gradients
        images, weight = ctx.saved_tensors
        stride, padding, groups = ctx.options
        for_images, for_weight, for_bias = ctx.needs_input_grad[:3]

        dtype, weight_dtype = images.dtype, weight.dtype
        gradient, weight = gradient.float(), weight.float()
        # Of the images, their gradient needs the shape alone.
        images = images.float() if for_weight else torch.empty_like(images, dtype=torch.float32)

        def derive(of: Tensor, at: Tensor, needed: tuple[bool, bool, bool]) -> tuple[Tensor, Tensor, Tensor]:
            found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
                of, at, weight, [groups], stride, padding, (1, 1), False, (0, 0), groups, needed
            )
            return found

        image_gradient = derive(gradient, images, (True, False, False))[0].to(dtype) if for_images else None
        bias_gradient = gradient.sum((0, 2, 3)) if for_bias else None
        weight_gradient = None
        if for_weight:
            images = _widened(images, tuple(weight.shape[2:]))
            size = [
                (side + 2 * pad - kernel) // step + 1
                for side, pad, kernel, step in zip(images.shape[2:], padding, weight.shape[2:], stride, strict=True)
            ]
            gradient = _widened(gradient, tuple(size))
            weight_gradient = derive(gradient, images, (False, True, False))[1].to(weight_dtype)
        return image_gradient, weight_gradient, bias_gradient, None, None, None


def _widened(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Add zeros below and to the right of maps (N,C,H,W) up to `size`."""
    return F.pad(maps, (0, max(0, size[1] - maps.shape[3]), 0, max(0, size[0] - maps.shape[2])))
