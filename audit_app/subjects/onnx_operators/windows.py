"""Convolution and pooling."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.subjects.onnx_operators.call import Call, Operator, for_pad, integers, plain


def _window_pads(call: Call, x: Tensor, kernel: Sequence[int]) -> list[int]:
    """Return the padding of a window before and after each axis, as ONNX orders it: begins, then ends."""
    axes = len(kernel)
    auto = call.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return integers(call.get("pads")) or [0] * (2 * axes)
    if auto == "VALID":
        return [0] * (2 * axes)
    strides = integers(call.get("strides")) or [1] * axes
    dilations = integers(call.get("dilations")) or [1] * axes
    begins, ends = [], []
    for size, side, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        whole = max(0, (math.ceil(size / stride) - 1) * stride + (side - 1) * dilation + 1 - size)
        small, large = whole // 2, whole - whole // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return begins + ends


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = weight.dim() - 2
    pads = _window_pads(call, x, weight.shape[2:])
    if pads[:axes] == pads[axes:]:
        padding = pads[:axes]
    else:
        x, padding = F.pad(x, for_pad(pads)), [0] * axes
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return function(
        x,
        weight,
        bias,
        stride=integers(call.get("strides")) or 1,
        padding=padding,
        dilation=integers(call.get("dilations")) or 1,
        groups=call.get("group", 1),
    )


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = weight.dim() - 2
    pads = integers(call.get("pads")) or [0] * (2 * axes)
    if pads[:axes] != pads[axes:] or call.get("output_shape") or call.get("auto_pad", "NOTSET") != "NOTSET":
        raise call.unsupported("output_shape, auto_pad or uneven padding")
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
    return function(
        x,
        weight,
        bias,
        stride=integers(call.get("strides")) or 1,
        padding=pads[:axes],
        output_padding=integers(call.get("output_padding")) or 0,
        groups=call.get("group", 1),
        dilation=integers(call.get("dilations")) or 1,
    )


def _max_pool(call: Call, x: Tensor) -> Tensor:
    kernel = integers(call.get("kernel_shape"))
    axes = len(kernel)
    pads = _window_pads(call, x, kernel)
    padding = pads[:axes]
    if pads[:axes] != pads[axes:] or any(2 * pad > side for pad, side in zip(padding, kernel, strict=True)):
        x, padding = F.pad(x, for_pad(pads), value=-math.inf), [0] * axes
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    pooled: Tensor = function(
        x,
        kernel,
        stride=integers(call.get("strides")) or [1] * axes,
        padding=padding,
        dilation=integers(call.get("dilations")) or 1,
        ceil_mode=bool(call.get("ceil_mode", 0)),
    )
    return pooled


def _average_pool(call: Call, x: Tensor) -> Tensor:
    kernel = integers(call.get("kernel_shape"))
    axes = len(kernel)
    pads = _window_pads(call, x, kernel)
    with_padding = bool(call.get("count_include_pad", 0))
    padding = pads[:axes]
    if any(dilation != 1 for dilation in integers(call.get("dilations"))):
        raise call.unsupported("dilations")
    if pads[:axes] != pads[axes:]:
        if not with_padding:
            raise call.unsupported("uneven padding that is not counted")
        x, padding = F.pad(x, for_pad(pads)), [0] * axes
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    pooled: Tensor = function(
        x,
        kernel if axes > 1 else kernel[0],
        stride=integers(call.get("strides")) or [1] * axes,
        padding=padding,
        ceil_mode=bool(call.get("ceil_mode", 0)),
        count_include_pad=with_padding,
    )
    return pooled


WINDOWS: Final[Mapping[str, Operator]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": plain(lambda x: x.mean(list(range(2, x.dim())), keepdim=True)),
    "GlobalMaxPool": plain(lambda x: x.amax(list(range(2, x.dim())), keepdim=True)),
}
