"""ONNX operators as differentiable PyTorch functions. To add one, write a function and add a line to `OPERATORS`.

A function takes a `Call` (attributes and opset) and the inputs of the node, None for absent optional ones. It returns
one tensor, or a tuple for several outputs. Definitions: https://onnx.ai/onnx/operators/
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, Final

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.errors import SubjectError


class ConversionError(SubjectError):
    """An ONNX graph that cannot be converted to PyTorch; the message is the reason."""


@dataclass(frozen=True)
class Call:
    """A node: how one operator is applied."""

    operator: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)

    def unsupported(self, what: str) -> ConversionError:
        """Return the error for a variant of the operator that is not implemented."""
        return ConversionError(f"{self.operator} with {what} is not supported")


Operator = Callable[..., Tensor | tuple[Tensor | None, ...]]

_TYPES: Final[Mapping[int, torch.dtype]] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def _integers(value: Tensor | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return [int(one) for one in (value.flatten().tolist() if isinstance(value, Tensor) else value)]


# Elementwise


def _div(call: Call, a: Tensor, b: Tensor) -> Tensor:
    both_whole = not a.is_floating_point() and not b.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc") if both_whole else a / b


def _mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    least = call.get("min") if low is None else low
    most = call.get("max") if high is None else high
    bounds = [one if one is None else float(one) for one in (least, most)]  # faster than bounds that are tensors
    return x if bounds == [None, None] else torch.clamp(x, *bounds)


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = float(call.get("alpha", 0.2)), float(call.get("beta", 0.5))
    return (alpha * x + beta).clamp(0, 1)


def _hard_swish(call: Call, x: Tensor) -> Tensor:
    return x * (x / 6 + 0.5).clamp(0, 1)


def _gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=call.get("approximate", "none"))


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = float(call.get("alpha", 1.6732632423543772)), float(call.get("gamma", 1.0507009873554805))
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, slope * x)


def _cast(call: Call, x: Tensor) -> Tensor:
    if call.get("to") not in _TYPES:
        raise call.unsupported(f"the type {TensorProto.DataType.Name(call.get('to', 0))}")
    return x.to(_TYPES[call.get("to")])


def _softmax(call: Call, x: Tensor) -> Tensor:
    function = F.softmax if call.operator == "Softmax" else F.log_softmax
    if call.opset >= 13:
        return function(x, dim=call.get("axis", -1))
    axis = call.get("axis", 1) % x.dim()  # earlier versions treat all axes from this one as one
    return function(x.flatten(axis), dim=-1).view(x.shape)


# Reductions


def _reduced(operation: Callable[[Tensor, list[int], bool], Tensor], call: Call, x: Tensor, *given: Tensor) -> Tensor:
    axes = _integers(given[0] if given and given[0] is not None else call.get("axes"))
    if not axes:
        if call.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.dim()))
    return operation(x, axes, bool(call.get("keepdims", 1)))


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _extreme_index(call: Call, x: Tensor) -> Tensor:
    if call.get("select_last_index", 0):
        raise call.unsupported("select_last_index")
    function = torch.argmax if call.operator == "ArgMax" else torch.argmin
    return function(x, dim=call.get("axis", 0), keepdim=bool(call.get("keepdims", 1)))


def _cumulative_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    if call.get("exclusive", 0) or call.get("reverse", 0):
        raise call.unsupported("exclusive or reverse")
    return x.cumsum(int(axis))


# Linear algebra


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if call.get("transA", 0) else a
    b = b.t() if call.get("transB", 0) else b
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    product = a @ b if alpha == 1 else alpha * (a @ b)
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


def _einsum(call: Call, *operands: Tensor) -> Tensor:
    return torch.einsum(call.get("equation"), *operands)


# Convolution and pooling


def _window_pads(call: Call, x: Tensor, kernel: Sequence[int]) -> list[int]:
    """Return the padding of a window before and after each axis, as ONNX orders it: begins, then ends."""
    axes = len(kernel)
    auto = call.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return _integers(call.get("pads")) or [0] * (2 * axes)
    if auto == "VALID":
        return [0] * (2 * axes)
    strides = _integers(call.get("strides")) or [1] * axes
    dilations = _integers(call.get("dilations")) or [1] * axes
    begins, ends = [], []
    for size, side, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        whole = max(0, (math.ceil(size / stride) - 1) * stride + (side - 1) * dilation + 1 - size)
        small, large = whole // 2, whole - whole // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return begins + ends


def _for_pad(pads: Sequence[int]) -> list[int]:
    """Return begins and ends in the order of `F.pad`: pairs, last axis first."""
    axes = len(pads) // 2
    return [pads[axis + side * axes] for axis in reversed(range(axes)) for side in (0, 1)]


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = weight.dim() - 2
    pads = _window_pads(call, x, weight.shape[2:])
    if pads[:axes] == pads[axes:]:
        padding = pads[:axes]
    else:
        x, padding = F.pad(x, _for_pad(pads)), [0] * axes
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return function(
        x,
        weight,
        bias,
        stride=_integers(call.get("strides")) or 1,
        padding=padding,
        dilation=_integers(call.get("dilations")) or 1,
        groups=call.get("group", 1),
    )


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = weight.dim() - 2
    pads = _integers(call.get("pads")) or [0] * (2 * axes)
    if pads[:axes] != pads[axes:] or call.get("output_shape") or call.get("auto_pad", "NOTSET") != "NOTSET":
        raise call.unsupported("output_shape, auto_pad or uneven padding")
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
    return function(
        x,
        weight,
        bias,
        stride=_integers(call.get("strides")) or 1,
        padding=pads[:axes],
        output_padding=_integers(call.get("output_padding")) or 0,
        groups=call.get("group", 1),
        dilation=_integers(call.get("dilations")) or 1,
    )


def _max_pool(call: Call, x: Tensor) -> Tensor:
    kernel = _integers(call.get("kernel_shape"))
    axes = len(kernel)
    pads = _window_pads(call, x, kernel)
    padding = pads[:axes]
    if pads[:axes] != pads[axes:] or any(2 * pad > side for pad, side in zip(padding, kernel, strict=True)):
        x, padding = F.pad(x, _for_pad(pads), value=-math.inf), [0] * axes
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    pooled: Tensor = function(
        x,
        kernel,
        stride=_integers(call.get("strides")) or [1] * axes,
        padding=padding,
        dilation=_integers(call.get("dilations")) or 1,
        ceil_mode=bool(call.get("ceil_mode", 0)),
    )
    return pooled


def _average_pool(call: Call, x: Tensor) -> Tensor:
    kernel = _integers(call.get("kernel_shape"))
    axes = len(kernel)
    pads = _window_pads(call, x, kernel)
    with_padding = bool(call.get("count_include_pad", 0))
    padding = pads[:axes]
    if any(dilation != 1 for dilation in _integers(call.get("dilations"))):
        raise call.unsupported("dilations")
    if pads[:axes] != pads[axes:]:
        if not with_padding:
            raise call.unsupported("uneven padding that is not counted")
        x, padding = F.pad(x, _for_pad(pads)), [0] * axes
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    pooled: Tensor = function(
        x,
        kernel if axes > 1 else kernel[0],
        stride=_integers(call.get("strides")) or [1] * axes,
        padding=padding,
        ceil_mode=bool(call.get("ceil_mode", 0)),
        count_include_pad=with_padding,
    )
    return pooled


def _global_average(call: Call, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def _global_maximum(call: Call, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


# Normalization


def _batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=call.get("epsilon", 1e-5))


def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, channels = call.get("num_groups"), x.shape[1]
    if len(scale) != channels:  # until opset 21: one scale for each group
        scale, bias = (one.repeat_interleave(channels // groups) for one in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor | None, ...]:
    shape = x.shape[call.get("axis", -1) :]
    weight = scale.expand(shape)
    shift = None if bias is None else bias.expand(shape)
    return F.layer_norm(x, shape, weight, shift, call.get("epsilon", 1e-5)), None, None


def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(call.get("axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5)) * scale


def _lp_norm(call: Call, x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, call.get("p", 2), call.get("axis", -1), keepdim=True)
    return x / length


def _local_response_norm(call: Call, x: Tensor) -> Tensor:
    return F.local_response_norm(
        x, call.get("size"), call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0)
    )


# Shapes


def _reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    sides = _integers(shape)
    if not call.get("allowzero", 0):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(sides)


def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(_integers(call.get("perm")) or list(reversed(range(x.dim()))))


def _concat(call: Call, *parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=call.get("axis"))


def _split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = call.get("axis", 0)
    given: list[int] | int = _integers(sizes if sizes is not None else call.get("split"))
    if not given:
        given = math.ceil(x.shape[axis] / (call.get("num_outputs") or call.get("outputs")))
    return torch.split(x, given, dim=axis)


def _slice(call: Call, x: Tensor, *given: Tensor | None) -> Tensor:
    if given:
        starts, ends, axes, steps = (_integers(one) for one in (*given, None, None, None, None)[:4])
    else:
        starts, ends, axes, steps = (_integers(call.get(name)) for name in ("starts", "ends", "axes", "steps"))
    for start, end, axis, step in zip(
        starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True
    ):
        size = x.shape[axis]
        taken = range(*slice(start, end if step > 0 or end > -size - 1 else None, step).indices(size))
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(taken.start, taken.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(taken), dtype=torch.long, device=x.device))
    return x


def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.dim()
    indices = indices.to(x.device).long()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    found = x.index_select(axis, indices.flatten())
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    indices = indices.to(x.device)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    if call.get("batch_dims", 0):
        raise call.unsupported("batch_dims")
    return x[tuple(indices.to(x.device).unbind(-1))]


def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if call.get("reduction", "none") != "none":
        raise call.unsupported("a reduction")
    return x.index_put(tuple(indices.to(x.device).unbind(-1)), updates.to(x.dtype))


def _unsqueeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = _integers(given if given is not None else call.get("axes"))
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = _integers(given if given is not None else call.get("axes"))
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def _shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[call.get("start", 0) : call.get("end")], dtype=torch.int64)


def _size(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value = call.get("value", torch.zeros(1))
    return torch.full(_integers(shape), value.item(), dtype=value.dtype)


def _expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(_integers(shape))))


def _range(call: Call, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


def _tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(_integers(repeats))


def _pad(
    call: Call, x: Tensor, given: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    pads = _integers(given if given is not None else call.get("pads"))
    if axes is not None:
        named = [axis % x.dim() for axis in _integers(axes)]
        whole = [0] * (2 * x.dim())
        for i, axis in enumerate(named):
            whole[axis], whole[axis + x.dim()] = pads[i], pads[i + len(named)]
        pads = whole
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        call.get("mode", "constant")
    ]
    if mode == "constant":
        fill = call.get("value", 0.0) if value is None or value.numel() == 0 else value.item()
        return F.pad(x, _for_pad(pads), value=fill)
    ordered = _for_pad(pads)
    while len(ordered) > 2 and ordered[-2:] == [0, 0]:  # these modes pad the last axes only
        ordered = ordered[:-2]
    return F.pad(x, ordered, mode=mode)


def _resize(call: Call, x: Tensor, *given: Tensor | None) -> Tensor:
    if call.opset < 11:  # Upsample and the first Resize: scales alone
        scales, sizes = (given[0] if given else call.get("scales")), None
    else:
        _, scales, sizes = (*given, None, None, None)[:3]
    mode, coordinates = call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel")
    if call.opset < 11:
        coordinates = "asymmetric"
    if call.get("axes") or x.dim() != 4 or call.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.unsupported("axes, a policy, or other inputs than images")
    factors = scales.tolist() if isinstance(scales, Tensor) else list(scales or [])
    if (factors and list(factors[:2]) != [1, 1]) or (sizes is not None and _integers(sizes)[:2] != list(x.shape[:2])):
        raise call.unsupported("other axes than height and width")
    target: dict[str, Any] = {"scale_factor": factors[2:]} if factors else {"size": _integers(sizes)[2:]}
    aligned = coordinates == "align_corners"
    if mode == "nearest":
        floor = coordinates == "asymmetric" and call.get("nearest_mode", "round_prefer_floor") == "floor"
        whole = all(float(factor).is_integer() for factor in factors) if factors else False
        if not floor and not whole and call.opset >= 11:
            raise call.unsupported(f"nearest and {coordinates}")
        return F.interpolate(x, mode="nearest", **target)
    if mode not in {"linear", "cubic"} or coordinates not in {"half_pixel", "pytorch_half_pixel", "align_corners"}:
        raise call.unsupported(f"{mode} and {coordinates}")
    return F.interpolate(
        x,
        mode="bilinear" if mode == "linear" else "bicubic",
        align_corners=aligned,
        antialias=bool(call.get("antialias", 0)),
        **target,
    )


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    side = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, side)
    parts = x.view(count, side, side, channels // side**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(count, channels // side**2, height * side, width * side)


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    side = call.get("blocksize")
    parts = x.view(count, channels, height // side, side, width // side, side).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(count, channels * side**2, height // side, width // side)


def _constant(call: Call) -> Tensor:
    for name, dtype in (("value_int", torch.int64), ("value_ints", torch.int64)):
        if name in call.attributes:
            return torch.tensor(call.get(name), dtype=dtype)
    for name in ("value_float", "value_floats"):
        if name in call.attributes:
            return torch.tensor(call.get(name), dtype=torch.float32)
    if not isinstance(call.get("value"), Tensor):
        raise call.unsupported("a sparse or text value")
    value: Tensor = call.get("value")
    return value


def _dropout(call: Call, x: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return x, None


def _triangle(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if call.get("upper", 1) else torch.tril(x, diagonal)


def _top_k(call: Call, x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    found = torch.topk(x, int(k), dim=call.get("axis", -1), largest=bool(call.get("largest", 1)))
    return found.values, found.indices


def _plain(function: Callable[..., Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda call, *inputs: function(*inputs)


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs."""
    return lambda call, *inputs: reduce(function, inputs)


OPERATORS: Final[Mapping[str, Operator]] = {
    # elementwise
    "Abs": _plain(torch.abs),
    "Neg": _plain(torch.neg),
    "Exp": _plain(torch.exp),
    "Log": _plain(torch.log),
    "Sqrt": _plain(torch.sqrt),
    "Reciprocal": _plain(torch.reciprocal),
    "Erf": _plain(torch.erf),
    "Sin": _plain(torch.sin),
    "Cos": _plain(torch.cos),
    "Tanh": _plain(torch.tanh),
    "Sigmoid": _plain(torch.sigmoid),
    "Relu": _plain(F.relu),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Mish": _plain(F.mish),
    "Floor": _plain(torch.floor),
    "Ceil": _plain(torch.ceil),
    "Round": _plain(torch.round),
    "Sign": _plain(torch.sign),
    "Not": _plain(torch.logical_not),
    "Identity": _plain(lambda x: x),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": lambda call, x: F.leaky_relu(x, call.get("alpha", 0.01)),
    "Elu": lambda call, x: F.elu(x, call.get("alpha", 1.0)),
    "Celu": lambda call, x: F.celu(x, call.get("alpha", 1.0)),
    "Selu": _selu,
    "Gelu": _gelu,
    "PRelu": _prelu,
    "Clip": _clip,
    "Add": _plain(torch.add),
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _div,
    "Pow": _plain(lambda a, b: torch.pow(a, b).to(a.dtype)),
    "Mod": _mod,
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Sum": _many(torch.add),
    "Mean": lambda call, *inputs: reduce(torch.add, inputs) / len(inputs),
    "Equal": _plain(torch.eq),
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "And": _plain(torch.logical_and),
    "Or": _plain(torch.logical_or),
    "Xor": _plain(torch.logical_xor),
    "Where": _plain(torch.where),
    "Cast": _cast,
    "CastLike": _plain(lambda x, like: x.to(like.dtype)),
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    # reductions
    "ReduceMean": partial(_reduced, lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": partial(_reduced, lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMax": partial(_reduced, lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": partial(_reduced, lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": partial(_reduced, _product),
    "ReduceL1": partial(_reduced, lambda x, axes, keep: torch.linalg.vector_norm(x, 1, axes, keepdim=keep)),
    "ReduceL2": partial(_reduced, lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep)),
    "ReduceSumSquare": partial(_reduced, lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "ReduceLogSumExp": partial(_reduced, lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ArgMax": _extreme_index,
    "ArgMin": _extreme_index,
    "CumSum": _cumulative_sum,
    "TopK": _top_k,
    # linear algebra
    "MatMul": _plain(torch.matmul),
    "Gemm": _gemm,
    "Einsum": _einsum,
    # convolution and pooling
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_maximum,
    # normalization
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "LpNormalization": _lp_norm,
    "LRN": _local_response_norm,
    # shapes
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Shape": _shape,
    "Size": _size,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Range": _range,
    "Tile": _tile,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _triangle,
    "Dropout": _dropout,
}
"""The operators by their names in ONNX."""

QUANTIZED: Final = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)
"""Operators of quantized networks, whose rounding has no useful gradient."""
