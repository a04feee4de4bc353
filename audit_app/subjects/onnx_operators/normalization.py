"""Normalization."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.subjects.onnx_operators.call import Call, Operator


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


NORMALIZATION: Final[Mapping[str, Operator]] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "LpNormalization": _lp_norm,
    "LRN": _local_response_norm,
}
