"""ONNX graphs computed in PyTorch: embeddings and gradients equal those of the network that was exported."""

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.gallery.embedded import embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.subjects.loading import load_subject
from hardrank.audit_app.subjects.onnx_file import PixelScale
from hardrank.audit_app.subjects.onnx_network import OnnxNetwork
from hardrank.audit_app.subjects.onnx_operators.call import ConversionError
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.models.backbones import build_backbone
from hardrank.trainer.runtime.environment import Precision
from tests.audit_app.galleries import OPTIONS
from tests.audit_app.onnx_graphs import Shape, linear, save, write_linear, write_quantized

FAST = ["timm/test_resnet@32", "timm/test_vit@32", "timm/mobilenetv3_small_050@32", "timm/convnext_atto@32"]
SLOW = [
    "resnet18@64",
    "densenet121@64",
    "squeezenet1_1@64",
    "timm/efficientnet_lite0@64",
    "timm/vit_tiny_patch16_224@64",
    "timm/swin_tiny_patch4_window7_224@224",
    "timm/regnety_002@64",
    "timm/ghostnet_100@64",
    "timm/mobilenetv4_conv_small@64",
    "timm/fastvit_t8@64",
    "timm/levit_128s@224",
    "timm/xcit_nano_12_p16_224@224",
    "timm/mixer_s32_224@224",
    "timm/nfnet_l0@64",
    "timm/coatnet_nano_rw_224@224",
    "timm/efficientvit_b0@64",
    "timm/vit_small_patch14_dinov2@98",
]
EMBEDDINGS = 1e-4
"""Largest difference of a coordinate of an embedding, float32."""
GRADIENTS = 1e-4
"""Largest relative difference of a gradient, float32."""


def library_network(name: str, size: int) -> nn.Module:
    """A network with random weights, and statistics of batch norm that do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, _ = build_backbone(name, image_size=size)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def export(network: nn.Module, size: int, path: Path, *, dynamo: bool) -> Path:
    """Export with one of PyTorch's exporters, for any batch."""
    images = torch.rand(2, 3, size, size)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["embeddings"]}
    if dynamo:
        names["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    else:
        names["dynamic_axes"] = {"images": {0: "batch"}, "embeddings": {0: "batch"}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (images,), str(path), dynamo=dynamo, **names)
    return path


def assert_same(network: nn.Module, path: Path, size: int) -> None:
    """Compare the converted file with the network that it was exported from, and with ONNX Runtime."""
    converted = OnnxNetwork(onnx.load(path), input="images", output="embeddings")
    images = torch.from_numpy(np.random.default_rng(1).random((3, 3, size, size), dtype=np.float32))
    given, other = (images.clone().requires_grad_(True) for _ in range(2))
    expected, found = F.normalize(network(given), dim=1), F.normalize(converted(other), dim=1)
    torch.testing.assert_close(found, expected, atol=EMBEDDINGS, rtol=0)
    (served,) = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    torch.testing.assert_close(found, F.normalize(torch.from_numpy(served), dim=1), atol=EMBEDDINGS, rtol=0)
    direction = torch.linspace(-1, 1, found.shape[1])
    (expected * direction).sum().backward()
    (found * direction).sum().backward()
    assert given.grad is not None
    assert other.grad is not None
    assert (other.grad - given.grad).norm() <= GRADIENTS * given.grad.norm()


@pytest.mark.parametrize("spec", FAST)
def test_exported_networks_have_the_same_embeddings_and_gradients(spec: str, tmp_path: Path) -> None:
    name, size = spec.split("@")
    network = library_network(name, int(size))
    assert_same(network, export(network, int(size), tmp_path / "m.onnx", dynamo=False), int(size))


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("spec", [*FAST, *SLOW])
def test_both_exporters_of_many_families(spec: str, dynamo: bool, tmp_path: Path) -> None:
    name, size = spec.split("@")
    network = library_network(name, int(size))
    assert_same(network, export(network, int(size), tmp_path / "m.onnx", dynamo=dynamo), int(size))


def test_the_onnx_file_of_a_bundle_has_the_gradients_of_its_network(tiny_zoo: list[Path], gratings: Path) -> None:
    bundle = load_subject(str(tiny_zoo[0]), replace(OPTIONS, precision=Precision.FLOAT32))
    options = SubjectOptions(device=OPTIONS.device, threads=1, resize=bundle.preprocessing.resize)
    plain = embed_gallery(load_subject(str(tiny_zoo[0] / "model.onnx"), options), from_images(gratings)).subject
    images = torch.rand(4, 3, bundle.size, bundle.size, requires_grad=True)
    direction = torch.linspace(-1, 1, bundle.dimension)
    gradients = []
    for subject in (bundle, plain):
        found = subject.gradients(images)
        gradients.append(torch.autograd.grad((found * direction).sum(), images)[0])
        torch.testing.assert_close(found, bundle.judge(images), atol=EMBEDDINGS, rtol=0)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-3)
    (note,) = [note for note in plain.notes if "converted to PyTorch" in note]
    assert "16 images of the gallery" in note


def test_a_quantized_file_is_attacked_with_queries_and_says_why(tmp_path: Path) -> None:
    subject = load_subject(str(write_quantized(tmp_path / "m.onnx")), OPTIONS)
    assert not subject.white_box
    assert "DequantizeLinear" in subject.no_gradients
    assert any("queries alone" in note and "quantized" in note for note in subject.notes)
    with pytest.raises(SubjectError, match="quantized"):
        _ = subject.gradients


def write_after(operator: str, path: Path) -> Path:
    """Write `linear` of what an operator makes of the images."""
    nodes, weights = linear()
    nodes[0].input[0] = "changed"
    nodes.insert(0, helper.make_node(operator, ["images"], ["changed"]))
    return save(path, nodes, weights=weights)


def test_an_unknown_operator_leaves_black_box_attacks(tmp_path: Path) -> None:
    subject = load_subject(str(write_after("Atan", tmp_path / "m.onnx")), OPTIONS)
    assert not subject.white_box
    assert "Atan" in subject.no_gradients
    assert len(subject.judge(torch.rand(2, 3, 16, 16))) == 2


def test_a_graph_without_gradient_leaves_black_box_attacks(tmp_path: Path) -> None:
    subject = load_subject(str(write_after("Round", tmp_path / "m.onnx")), OPTIONS)
    assert "gradient of the network is zero" in subject.no_gradients


def test_a_conversion_that_differs_on_the_gallery_is_dropped(tmp_path: Path, gratings: Path) -> None:
    subject = load_subject(str(write_linear(tmp_path / "m.onnx")), OPTIONS)
    network = subject.gradients
    assert isinstance(network, nn.Module)
    weight = next(buffer for buffer in network.buffers() if buffer.numel() == 768 * 8)
    weight += 0.1 * torch.rand_like(weight)
    checked = embed_gallery(subject, from_images(gratings)).subject
    assert not checked.white_box
    assert "differ by" in checked.no_gradients


@pytest.mark.parametrize("batch", [1, 4, "batch"])
@pytest.mark.parametrize("scale", [PixelScale.UNIT, PixelScale.IMAGENET])
def test_the_converted_file_takes_any_number_of_images(tmp_path: Path, batch: int | str, scale: PixelScale) -> None:
    options = SubjectOptions(device=OPTIONS.device, threads=1, scale=scale)
    subject = load_subject(str(write_linear(tmp_path / "m.onnx", batch=batch)), options)
    for count in (1, 4, 7):
        images = torch.rand(count, 3, 16, 16)
        torch.testing.assert_close(subject.gradients(images), subject.judge(images), atol=1e-5, rtol=0)


def test_a_batch_size_that_is_frozen_inside_the_graph_is_kept(tmp_path: Path) -> None:
    nodes, weights = linear()
    nodes[0] = helper.make_node("Reshape", ["images", "shape"], ["flat"])
    weights["shape"] = np.array([4, 768], dtype=np.int64)
    path = save(tmp_path / "m.onnx", nodes, weights=weights, shape=[4, 3, 16, 16])
    subject = load_subject(str(path), OPTIONS)
    images = torch.rand(7, 3, 16, 16)
    torch.testing.assert_close(subject.gradients(images), subject.judge(images), atol=1e-5, rtol=0)


def run_both(nodes: list[Any], weights: dict[str, np.ndarray], opset: int, tmp_path: Path) -> tuple[Tensor, Tensor]:
    """Compute a small graph on (2,3,8,8) in PyTorch and in ONNX Runtime."""
    shape: Shape = [2, 3, 8, 8]
    path = save(tmp_path / "m.onnx", nodes, weights=weights, shape=shape, outputs={"embeddings": ["a", "b", "c", "d"]})
    model = onnx.load(path)
    model.opset_import[0].version = opset
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": images})
    found = OnnxNetwork(model, input="images", output="embeddings")(torch.from_numpy(images))
    return found, torch.from_numpy(np.array(expected))


def node(operator: str, *inputs: str, **attributes: Any) -> Any:
    return helper.make_node(operator, ["images", *inputs], ["embeddings"], **attributes)


def floats(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


CASES: list[tuple[int, Any, dict[str, np.ndarray]]] = [
    *((17, node(name), {}) for name in ("Abs", "Softplus", "HardSwish", "HardSigmoid", "Elu", "Selu", "Celu")),
    *((17, node(name), {}) for name in ("LeakyRelu", "Softsign", "Erf", "Sin", "Sign", "Ceil", "Softmax")),
    *((17, node(name, axes=[1, 3], keepdims=0), {}) for name in ("ReduceMean", "ReduceL1", "ReduceL2", "ReduceMax")),
    *((17, node(name, axes=[2]), {}) for name in ("ReduceSumSquare", "ReduceLogSumExp", "ReduceProd", "ReduceMin")),
    (18, node("ReduceMean", "axes"), {"axes": whole(-1)}),
    (12, node("Softmax", axis=2), {}),
    (12, node("LogSoftmax", axis=1), {}),
    (9, node("Clip", min=-0.5, max=0.25), {}),
    (17, node("Clip", "", "high"), {"high": floats(0.3)}),
    (17, node("Pow", "two"), {"two": floats(2)}),
    (17, node("Mod", "half", fmod=1), {"half": floats(0.5).reshape(1)}),
    (17, node("PRelu", "slope"), {"slope": floats([0.1, 0.2, 0.3]).reshape(3, 1, 1)}),
    (
        17,
        node("Slice", "starts", "ends", "axes", "steps"),
        {"starts": whole(-1, 1), "ends": whole(-100, 100), "axes": whole(3, 2), "steps": whole(-2, 3)},
    ),
    (17, node("Split", "sizes", axis=2), {"sizes": whole(8)}),
    (17, node("Gather", "rows", axis=2), {"rows": np.array([[0, -1], [2, 2]])}),
    (17, node("Reshape", "shape"), {"shape": whole(0, -1, 4)}),
    (17, node("Reshape", "shape", allowzero=1), {"shape": whole(2, 3, 64)}),
    (17, node("Flatten", axis=-1), {}),
    (17, node("Transpose"), {}),
    (17, node("Expand", "shape"), {"shape": whole(2, 1, 3, 1, 1)}),
    (17, node("Tile", "shape"), {"shape": whole(1, 2, 1, 3)}),
    (17, node("Pad", "pads", mode="reflect"), {"pads": whole(0, 0, 1, 2, 0, 0, 3, 0)}),
    (17, node("Pad", "pads", "value"), {"pads": whole(0, 1, 1, 2, 0, 0, 3, 0), "value": floats(0.5)}),
    (17, node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]), {}),
    (17, node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), {}),
    (17, node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), {}),
    (17, node("AveragePool", kernel_shape=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1), {}),
    (17, node("Conv", "weight", auto_pad="SAME_UPPER", strides=[2, 2]), {"weight": np.ones((4, 3, 3, 3), np.float32)}),
    (17, node("Conv", "weight", pads=[1, 0, 0, 2], group=3), {"weight": floats(range(12)).reshape(3, 1, 2, 2)}),
    (
        17,
        node("ConvTranspose", "weight", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        {"weight": floats(range(54)).reshape(3, 2, 3, 3) / 54},
    ),
    (
        17,
        node("InstanceNormalization", "scale", "bias"),
        {"scale": floats([1, 2, 3]), "bias": floats([0, 1, 2])},
    ),
    (17, node("LayerNormalization", "scale", axis=-2), {"scale": floats(range(64)).reshape(8, 8)}),
    (17, node("LpNormalization", axis=1, p=2), {}),
    (17, node("LRN", size=3), {}),
    (17, node("SpaceToDepth", blocksize=2), {}),
    (17, node("GlobalMaxPool"), {}),
    (17, node("CumSum", "axis"), {"axis": np.array(2)}),
    (17, node("Trilu"), {}),
    (
        17,
        node("Resize", "", "scales", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        {"scales": floats([1, 1, 2, 2])},
    ),
    (17, node("Resize", "", "", "sizes", mode="linear"), {"sizes": whole(2, 3, 12, 20)}),
    (17, node("Resize", "", "scales", mode="cubic", cubic_coeff_a=-0.75), {"scales": floats([1, 1, 1.5, 1.5])}),
    (
        17,
        node("Resize", "", "", "sizes", mode="linear", coordinate_transformation_mode="align_corners"),
        {"sizes": whole(2, 3, 5, 20)},
    ),
    (9, node("Upsample", "scales", mode="nearest"), {"scales": floats([1, 1, 2, 3])}),
    (20, node("Gelu", approximate="tanh"), {}),
    (18, node("Mish"), {}),
]


@pytest.mark.parametrize(("opset", "one", "weights"), CASES, ids=lambda one: getattr(one, "op_type", ""))
def test_operators_compute_what_onnx_runtime_computes(
    opset: int, one: Any, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    found, expected = run_both([one], weights, opset, tmp_path)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_variants_that_are_not_implemented_are_refused(tmp_path: Path) -> None:
    for one, weights in (
        (node("Resize", "", "scales", mode="nearest"), {"scales": floats([1, 1, 1.3, 1.3])}),
        (node("CumSum", "axis", reverse=1), {"axis": np.array(2)}),
    ):
        with pytest.raises(ConversionError, match="not supported"):
            run_both([one], weights, 17, tmp_path)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Odd", ["images"], ["embeddings"], domain="com.example")],
            "test",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, None)],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)],
    )
    with pytest.raises(ConversionError, match=r"com\.example\.Odd"):
        OnnxNetwork(model, input="images", output="embeddings")
