"""Operators that reduce or accumulate along axes, and linear algebra."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor

from hardrank.audit_app.subjects.onnx_operators.call import Call, Operator, integers, plain


def _reduced(operation: Callable[[Tensor, list[int], bool], Tensor], call: Call, x: Tensor, *given: Tensor) -> Tensor:
    axes = integers(given[0] if given and given[0] is not None else call.get("axes"))
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


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if call.get("transA", 0) else a
    b = b.t() if call.get("transB", 0) else b
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    product = a @ b if alpha == 1 else alpha * (a @ b)
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


def _top_k(call: Call, x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    found = torch.topk(x, int(k), dim=call.get("axis", -1), largest=bool(call.get("largest", 1)))
    return found.values, found.indices


REDUCTIONS: Final[Mapping[str, Operator]] = {
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
    "MatMul": plain(torch.matmul),
    "Gemm": _gemm,
    "Einsum": lambda call, *operands: torch.einsum(call.get("equation"), *operands),
}
