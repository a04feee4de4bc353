"""A node of an ONNX graph as a call of one operator, and what the operators share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from torch import Tensor

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
"""A function that computes an operator: it takes a `Call` and the inputs of the node, None for absent optional ones."""


def integers(value: Tensor | Sequence[int] | None) -> list[int]:
    """Return an attribute or an input that lists integers, empty for None."""
    if value is None:
        return []
    return [int(one) for one in (value.flatten().tolist() if isinstance(value, Tensor) else value)]


def for_pad(pads: Sequence[int]) -> list[int]:
    """Return begins and ends in the order of `F.pad`: pairs, last axis first."""
    axes = len(pads) // 2
    return [pads[axis + side * axes] for axis in reversed(range(axes)) for side in (0, 1)]


def plain(function: Callable[..., Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda call, *inputs: function(*inputs)


def many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs."""
    return lambda call, *inputs: reduce(function, inputs)
