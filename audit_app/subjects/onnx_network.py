"""An ONNX graph as a differentiable PyTorch module, which computes it node by node."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hardrank.audit_app.subjects.onnx_operators.call import Call, ConversionError, Operator
from hardrank.audit_app.subjects.onnx_operators.table import OPERATORS, QUANTIZED

_DOMAINS: Final = frozenset({"", "ai.onnx"})
_OLDEST_OPSET: Final = 7
_SMALL: Final = 4096
"""Tensors of at most this many whole numbers stay on the CPU: they are shapes and indices."""


@dataclass(frozen=True)
class _Node:
    call: Call
    function: Operator
    inputs: tuple[str, ...]
    """Empty strings stand for absent optional inputs."""
    outputs: tuple[str, ...]


class OnnxNetwork(nn.Module):
    """An ONNX graph with one input and one chosen output, in float precision as stored.

    Nodes that depend on weights alone are computed once.

    Args:
        model: A valid model without external data.
        input: Name of the input.
        output: Name of the output to return.

    Raises:
        ConversionError: The graph is quantized, or uses an operator or a variant that is not implemented.
    """

    def __init__(self, model: onnx.ModelProto, *, input: str, output: str) -> None:
        super().__init__()
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        self._input, self._output = input, output
        self._places: dict[str, str] = {}
        """Names of the buffers that hold float constants, by name in the graph."""
        self._whole: dict[str, Tensor] = {}
        """Single numbers, and whole numbers that describe shapes; they stay on the CPU."""
        constants = {one.name: _tensor(one) for one in model.graph.initializer}
        if model.graph.sparse_initializer:
            raise ConversionError("sparse weights are not supported")
        self._nodes = _folded(_needed(_nodes(model), output), constants)
        used = {name for node in self._nodes for name in node.inputs} | {output}
        for name, value in constants.items():
            if name in used:
                self._keep(name, value)
        last = {name: i for i, node in enumerate(self._nodes) for name in node.inputs}
        self._dropped: list[list[str]] = [[] for _ in self._nodes]
        for name, i in last.items():
            if name != output:
                self._dropped[i].append(name)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the output for an input of the shape that the graph expects."""
        values: dict[str, Tensor | None] = {"": None, self._input: images, **self._whole}
        values |= {name: self.get_buffer(place) for name, place in self._places.items()}
        for node, dropped in zip(self._nodes, self._dropped, strict=True):
            _compute(node, values)
            for name in dropped:
                if name:
                    del values[name]
        found = values[self._output]
        assert found is not None
        return found

    def _keep(self, name: str, value: Tensor) -> None:
        if value.dim() == 0 or (not value.is_floating_point() and value.numel() <= _SMALL):
            self._whole[name] = value
            return
        place = f"value_{len(self._places)}"
        self._places[name] = place
        self.register_buffer(place, value)


def _compute(node: _Node, values: dict[str, Any]) -> None:
    """Compute a node, and add its outputs to `values`."""
    inputs = [values[name] for name in node.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    device = next((one.device for one in inputs if isinstance(one, Tensor) and one.is_cuda), None)
    if device is not None:  # numbers that were computed from shapes lie on the CPU
        inputs = [
            one.to(device) if isinstance(one, Tensor) and one.is_floating_point() and one.dim() else one
            for one in inputs
        ]
    try:
        found = node.function(node.call, *inputs)
    except ConversionError:
        raise
    except Exception as error:  # PyTorch raises errors of many kinds for shapes and types that do not fit
        cause = str(error).partition("\n")[0]
        raise ConversionError(f"{node.call.operator} failed in PyTorch: {cause}") from error
    several = found if isinstance(found, tuple) else (found,)
    values.update(zip(node.outputs, several, strict=False))


def _nodes(model: onnx.ModelProto) -> list[_Node]:
    opset = next((one.version for one in model.opset_import if one.domain in _DOMAINS), 0)
    if opset < _OLDEST_OPSET:
        raise ConversionError(f"the opset {opset} is too old; export with 13 or later")
    operators = {node.op_type for node in model.graph.node}
    if quantized := sorted(operators & QUANTIZED):
        raise ConversionError(f"the network is quantized ({', '.join(quantized)}): rounding has no useful gradient")
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in _DOMAINS})
    if unknown := sorted(operators - OPERATORS.keys() - {name.rpartition(".")[2] for name in foreign}) + foreign:
        raise ConversionError(f"no gradient for the operator {', '.join(unknown[:5])}")
    return [_node(node, opset) for node in model.graph.node]


def _node(node: onnx.NodeProto, opset: int) -> _Node:
    attributes = {one.name: _attribute(one) for one in node.attribute}
    if node.op_type == "Split":
        attributes["outputs"] = len(node.output)
    call = Call(node.op_type, opset, attributes)
    return _Node(call, OPERATORS[node.op_type], tuple(node.input), tuple(node.output))


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return _tensor(value) if isinstance(value, onnx.TensorProto) else value


def _tensor(stored: onnx.TensorProto) -> Tensor:
    try:
        return torch.from_numpy(np.array(numpy_helper.to_array(stored)))
    except (TypeError, ValueError) as error:  # text, or a number format that PyTorch lacks
        kind = onnx.TensorProto.DataType.Name(stored.data_type).lower()
        raise ConversionError(f"weights of the type {kind} are not supported") from error


def _needed(nodes: Sequence[_Node], output: str) -> list[_Node]:
    """Return the nodes that `output` depends on, in their order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted |= set(node.inputs)
    return kept[::-1]


@torch.no_grad()
def _folded(nodes: Sequence[_Node], constants: dict[str, Tensor]) -> list[_Node]:
    """Compute the nodes that depend on constants alone into `constants`; return the others."""
    others = []
    for node in nodes:
        if all(name in constants or not name for name in node.inputs):
            values: dict[str, Any] = {"": None, **{name: constants[name] for name in node.inputs if name}}
            _compute(node, values)
            constants |= {name: values[name] for name in node.outputs if values.get(name) is not None}
        else:
            others.append(node)
    return others
