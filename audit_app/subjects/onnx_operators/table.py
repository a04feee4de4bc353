"""All operators that are known. To add one, write a function and add a line to the table of its file.

A function takes a `Call` (attributes and opset) and the inputs of the node, None for absent optional ones. It returns
one tensor, or a tuple for several outputs. Definitions: https://onnx.ai/onnx/operators/
"""

from collections.abc import Mapping
from typing import Final

from hardrank.audit_app.subjects.onnx_operators.call import Operator
from hardrank.audit_app.subjects.onnx_operators.elementwise import ELEMENTWISE
from hardrank.audit_app.subjects.onnx_operators.normalization import NORMALIZATION
from hardrank.audit_app.subjects.onnx_operators.reductions import REDUCTIONS
from hardrank.audit_app.subjects.onnx_operators.shapes import SHAPES
from hardrank.audit_app.subjects.onnx_operators.windows import WINDOWS

OPERATORS: Final[Mapping[str, Operator]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **WINDOWS,
    **NORMALIZATION,
    **SHAPES,
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
