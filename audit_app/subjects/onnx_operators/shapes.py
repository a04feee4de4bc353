"""Operators that rearrange or make tensors."""

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.subjects.onnx_operators.call import Call, Operator, for_pad, integers, plain


def _reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    sides = integers(shape)
    if not call.get("allowzero", 0):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(sides)


def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(integers(call.get("perm")) or list(reversed(range(x.dim()))))


def _split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = call.get("axis", 0)
    given: list[int] | int = integers(sizes if sizes is not None else call.get("split"))
    if not given:
        given = math.ceil(x.shape[axis] / (call.get("num_outputs") or call.get("outputs")))
    return torch.split(x, given, dim=axis)


def _slice(call: Call, x: Tensor, *given: Tensor | None) -> Tensor:
    if given:
        starts, ends, axes, steps = (integers(one) for one in (*given, None, None, None, None)[:4])
    else:
        starts, ends, axes, steps = (integers(call.get(name)) for name in ("starts", "ends", "axes", "steps"))
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
    axes = integers(given if given is not None else call.get("axes"))
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = integers(given if given is not None else call.get("axes"))
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def _shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[call.get("start", 0) : call.get("end")], dtype=torch.int64)


def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value = call.get("value", torch.zeros(1))
    return torch.full(integers(shape), value.item(), dtype=value.dtype)


_PAD_MODES: Final = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(
    call: Call, x: Tensor, given: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    pads = integers(given if given is not None else call.get("pads"))
    if axes is not None:
        named = [axis % x.dim() for axis in integers(axes)]
        whole = [0] * (2 * x.dim())
        for i, axis in enumerate(named):
            whole[axis], whole[axis + x.dim()] = pads[i], pads[i + len(named)]
        pads = whole
    ordered, mode = for_pad(pads), call.get("mode", "constant")
    if mode == "constant":
        fill = call.get("value", 0.0) if value is None or value.numel() == 0 else value.item()
        return F.pad(x, ordered, value=fill)
    while len(ordered) > 2 and ordered[-2:] == [0, 0]:  # these modes pad the last axes only
        ordered = ordered[:-2]
    return F.pad(x, ordered, mode=_PAD_MODES[mode])


def _resize(call: Call, x: Tensor, *given: Tensor | None) -> Tensor:
    mode = call.get("mode", "nearest")
    if call.opset < 11:  # Upsample and the first Resize: scales alone
        scales, sizes, coordinates = (given[0] if given else call.get("scales")), None, "asymmetric"
    else:
        _, scales, sizes = (*given, None, None, None)[:3]
        coordinates = call.get("coordinate_transformation_mode", "half_pixel")
    if call.get("axes") or x.dim() != 4 or call.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.unsupported("axes, a policy, or other inputs than images")
    factors = scales.tolist() if isinstance(scales, Tensor) else list(scales or [])
    if (factors and factors[:2] != [1, 1]) or (sizes is not None and integers(sizes)[:2] != list(x.shape[:2])):
        raise call.unsupported("other axes than height and width")
    target: dict[str, Any] = {"scale_factor": factors[2:]} if factors else {"size": integers(sizes)[2:]}
    if mode == "nearest":
        floor = coordinates == "asymmetric" and call.get("nearest_mode", "round_prefer_floor") == "floor"
        whole = bool(factors) and all(float(factor).is_integer() for factor in factors)
        if not floor and not whole and call.opset >= 11:
            raise call.unsupported(f"nearest and {coordinates}")
        return F.interpolate(x, mode="nearest", **target)
    if mode not in {"linear", "cubic"} or coordinates not in {"half_pixel", "pytorch_half_pixel", "align_corners"}:
        raise call.unsupported(f"{mode} and {coordinates}")
    return F.interpolate(
        x,
        mode="bilinear" if mode == "linear" else "bicubic",
        align_corners=coordinates == "align_corners",
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


_CONSTANT_TYPES: Final = {
    "value_int": torch.int64,
    "value_ints": torch.int64,
    "value_float": torch.float32,
    "value_floats": torch.float32,
}


def _constant(call: Call) -> Tensor:
    for name, dtype in _CONSTANT_TYPES.items():
        if name in call.attributes:
            return torch.tensor(call.get(name), dtype=dtype)
    value = call.get("value")
    if not isinstance(value, Tensor):
        raise call.unsupported("a sparse or text value")
    return value


def _triangle(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if call.get("upper", 1) else torch.tril(x, diagonal)


SHAPES: Final[Mapping[str, Operator]] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Concat": lambda call, *parts: torch.cat(parts, dim=call.get("axis")),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Shape": _shape,
    "Size": plain(lambda x: torch.tensor(x.numel(), dtype=torch.int64)),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": plain(lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape))))),
    "Range": plain(lambda start, limit, step: torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)),
    "Tile": plain(lambda x, repeats: x.repeat(integers(repeats))),
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _triangle,
    "Dropout": lambda call, x, *_: (x, None),
}
