"""Small ONNX files, valid and invalid."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = list[int | str]


def save(
    path: Path,
    nodes: list[Any],
    *,
    weights: dict[str, np.ndarray] | None = None,
    shape: Shape | None = None,
    outputs: dict[str, Shape] | None = None,
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
) -> Path:
    """Write a graph of `nodes` from `images` to `embeddings`."""
    shape = ["batch", 3, 16, 16] if shape is None else shape
    given = [helper.make_tensor_value_info("images", kind, shape)]
    given += [helper.make_tensor_value_info(f"more{i}", TensorProto.FLOAT, [1]) for i in range(inputs - 1)]
    graph = helper.make_graph(
        nodes,
        "test",
        given,
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, found)
            for name, found in (outputs or {"embeddings": [shape[0], "D"]}).items()
        ],
        [numpy_helper.from_array(values, name) for name, values in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def linear(size: int = 16, dimension: int = 8, seed: int = 0) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Flatten and multiply: outputs are not on the sphere."""
    weight = np.random.default_rng(seed).normal(size=(3 * size * size, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["embeddings"]),
    ]
    return nodes, {"weight": weight}


def write_linear(path: Path, *, batch: int | str = "batch", **options: Any) -> Path:
    """Write `linear` with 16 px."""
    nodes, weights = linear(**options)
    return save(path, nodes, weights=weights, shape=[batch, 3, 16, 16])


def with_external(path: Path) -> Path:
    """Write `linear` with its weight in another file."""
    model = onnx.load(write_linear(path))
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="beside.bin")
    return path


def write_quantized(path: Path, size: int = 16) -> Path:
    """Write `linear` with its weight in 8 bits, so that it has no gradients."""
    nodes, weights = linear(size)
    scale = np.array(np.abs(weights["weight"]).max() / 127, dtype=np.float32)
    nodes.insert(0, helper.make_node("DequantizeLinear", ["eight bits", "scale"], ["weight"]))
    stored = np.round(weights["weight"] / scale).astype(np.int8)
    return save(path, nodes, weights={"eight bits": stored, "scale": scale}, shape=["batch", 3, size, size])


def without_gradients(source: Path, path: Path) -> Path:
    """Copy a model and add an unused 8-bit weight: it counts as quantized, so it has no gradients, but is the same."""
    model = onnx.load(source)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int8), "eight bits"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), "scale of eight bits"))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["eight bits", "scale of eight bits"], ["unused"]))
    path.write_bytes(model.SerializeToString())
    return path
