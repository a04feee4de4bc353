"""Elementwise operators and softmax."""

from collections.abc import Mapping
from functools import reduce
from typing import Final

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.subjects.onnx_operators.call import Call, Operator, many, plain

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


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = float(call.get("alpha", 1.6732632423543772)), float(call.get("gamma", 1.0507009873554805))
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


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


ELEMENTWISE: Final[Mapping[str, Operator]] = {
    "Abs": plain(torch.abs),
    "Neg": plain(torch.neg),
    "Exp": plain(torch.exp),
    "Log": plain(torch.log),
    "Sqrt": plain(torch.sqrt),
    "Reciprocal": plain(torch.reciprocal),
    "Erf": plain(torch.erf),
    "Sin": plain(torch.sin),
    "Cos": plain(torch.cos),
    "Tanh": plain(torch.tanh),
    "Sigmoid": plain(torch.sigmoid),
    "Relu": plain(F.relu),
    "Softplus": plain(F.softplus),
    "Softsign": plain(F.softsign),
    "Mish": plain(F.mish),
    "Floor": plain(torch.floor),
    "Ceil": plain(torch.ceil),
    "Round": plain(torch.round),
    "Sign": plain(torch.sign),
    "Not": plain(torch.logical_not),
    "Identity": plain(lambda x: x),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": plain(F.hardswish),
    "LeakyRelu": lambda call, x: F.leaky_relu(x, call.get("alpha", 0.01)),
    "Elu": lambda call, x: F.elu(x, call.get("alpha", 1.0)),
    "Celu": lambda call, x: F.celu(x, call.get("alpha", 1.0)),
    "Selu": _selu,
    "Gelu": lambda call, x: F.gelu(x, approximate=call.get("approximate", "none")),
    "PRelu": plain(lambda x, slope: torch.where(x >= 0, x, slope * x)),
    "Clip": _clip,
    "Add": plain(torch.add),
    "Sub": plain(torch.sub),
    "Mul": plain(torch.mul),
    "Div": _div,
    "Pow": plain(lambda a, b: torch.pow(a, b).to(a.dtype)),
    "Mod": _mod,
    "Max": many(torch.maximum),
    "Min": many(torch.minimum),
    "Sum": many(torch.add),
    "Mean": lambda call, *inputs: reduce(torch.add, inputs) / len(inputs),
    "Equal": plain(torch.eq),
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "And": plain(torch.logical_and),
    "Or": plain(torch.logical_or),
    "Xor": plain(torch.logical_xor),
    "Where": plain(torch.where),
    "Cast": _cast,
    "CastLike": plain(lambda x, like: x.to(like.dtype)),
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
}
