"""Faster and safer gradients for the weights of convolutions on the CPU.

On processors without AVX-512, oneDNN has no depthwise kernel for the weight gradient of maps that are smaller than the
convolution's window, such as 4×4 maps and 5×5 windows at the end of an EfficientNet. What it uses instead takes several
times as long (`benchmarks/update_step.py`). Zeros beside the maps widen them to the window's size and change no sum.

In the channels-last layout, the same library writes outside its memory when it computes the weight gradient of a
strided 1×1 convolution of few channels, such as the branch of RepVGG that sees the image. Taking the pixels first that
the stride leaves is the same convolution without a stride.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class WideDepthwise(TorchFunctionMode):
    """Inside this context, weight gradients of depthwise convolutions are computed on maps widened to the window.

    Strided 1×1 convolutions of few channels see the pixels that the stride leaves.

    The gradients are the same up to the order of the sums.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and _is_small(*args):
            images, weight, bias, stride, padding, _, groups = args
            return _Depthwise.apply(images, weight, bias, stride, padding, groups)
        if func is torch.conv2d and not kwargs and len(args) == 7 and _is_strided_point(*args):
            images, weight, bias, stride, *rest = args
            return func(images[..., :: stride[0], :: stride[1]], weight, bias, (1, 1), *rest)
        return func(*args, **(kwargs or {}))


def _is_small(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    """Whether this is a depthwise convolution with maps smaller than its window, trained in float32 on the CPU."""
    if not (groups == images.shape[1] == weight.shape[0] > 1 and weight.requires_grad and images.device.type == "cpu"):
        return False
    if images.dtype != torch.float32 or isinstance(padding, str) or tuple(dilation) != (1, 1):
        return False
    return images.shape[2] < weight.shape[2] or images.shape[3] < weight.shape[3]


def _is_strided_point(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    """Whether this is a 1×1 convolution of few channels with a stride, trained on the CPU."""
    if weight.shape[2:] != (1, 1) or groups != 1 or isinstance(padding, str) or any(padding):
        return False
    few = images.shape[1] < 8 and weight.requires_grad and images.device.type == "cpu"
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

        def derive(of: Tensor, at: Tensor, needed: tuple[bool, bool, bool]) -> tuple[Tensor, Tensor, Tensor]:
            found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
                of, at, weight, [groups], stride, padding, (1, 1), False, (0, 0), groups, needed
            )
            return found

        image_gradient = derive(gradient, images, (True, False, False))[0] if for_images else None
        bias_gradient = gradient.sum((0, 2, 3)) if for_bias else None
        weight_gradient = None
        if for_weight:
            images = _widened(images, tuple(weight.shape[2:]))
            size = [
                (side + 2 * pad - kernel) // step + 1
                for side, pad, kernel, step in zip(images.shape[2:], padding, weight.shape[2:], stride, strict=True)
            ]
            gradient = _widened(gradient, tuple(size))
            weight_gradient = derive(gradient, images, (False, True, False))[1]
        return image_gradient, weight_gradient, bias_gradient, None, None, None


def _widened(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Add zeros below and to the right of maps (N,C,H,W) up to `size`."""
    return F.pad(maps, (0, max(0, size[1] - maps.shape[3]), 0, max(0, size[0] - maps.shape[2])))
