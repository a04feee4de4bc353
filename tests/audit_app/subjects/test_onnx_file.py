"""Plain ONNX files: what they compute, how unusual ones are handled, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.subjects.onnx_file import DEFAULT_SIZE, OnnxFile, PixelScale
from hardrank.audit_app.subjects.onnx_reading import read_onnx
from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from tests.audit_app.onnx_graphs import Shape, linear, save, write_linear


def images(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, size, size), dtype=np.float32)


def expected(pixels: np.ndarray) -> np.ndarray:
    raw = pixels.reshape(len(pixels), -1).astype(np.float64) @ linear()[1]["weight"]
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True))


def test_outputs_are_normalized_with_a_note(tmp_path: Path) -> None:
    file = OnnxFile(write_linear(tmp_path / "m.onnx"), threads=1)
    assert file.dimension == 8
    assert file.size == 16
    np.testing.assert_allclose(file.embed(images(5)), expected(images(5)), atol=1e-5)
    assert any("normalized" in note for note in file.notes)
    assert len(file.sha256) == 64


def test_normalized_outputs_are_not_changed(tmp_path: Path) -> None:
    nodes, weights = linear()
    nodes[1].output[0] = "raw"
    nodes.append(helper.make_node("LpNormalization", ["raw"], ["embeddings"], axis=1, p=2))
    file = OnnxFile(save(tmp_path / "m.onnx", nodes, weights=weights), threads=1)
    np.testing.assert_allclose(file.embed(images(3)), expected(images(3)), atol=1e-5)
    assert file.notes == []


@pytest.mark.parametrize("batch", [1, 4, "batch"])
def test_any_number_of_images_is_embedded_whatever_the_batch_size(tmp_path: Path, batch: int | str) -> None:
    file = OnnxFile(write_linear(tmp_path / "m.onnx", batch=batch), threads=1)
    for count in (1, 4, 7):
        np.testing.assert_allclose(file.embed(images(count)), expected(images(count)), atol=1e-5)
    assert [note for note in file.notes if f"batches of {batch}" in note or "one by one" in note] == (
        []
        if batch == "batch"
        else [f"the file accepts only batches of {batch}, so smaller ones are filled with copies"]
    )


@pytest.mark.parametrize("batch", [4, "batch"])
def test_images_that_influence_each_other_go_one_by_one(tmp_path: Path, batch: int | str) -> None:
    nodes, weights = linear()
    nodes[0].output[0] = "each"
    nodes.insert(1, helper.make_node("ReduceMean", ["each"], ["mean"], axes=[0], keepdims=1))
    nodes.insert(2, helper.make_node("Mul", ["mean", "half"], ["some"]))
    nodes.insert(3, helper.make_node("Sub", ["each", "some"], ["flat"]))
    weights["half"] = np.array(0.5, dtype=np.float32)
    file = OnnxFile(save(tmp_path / "m.onnx", nodes, weights=weights, shape=[batch, 3, 16, 16]), threads=1)
    np.testing.assert_allclose(file.embed(images(5)), expected(images(5)), atol=1e-5)
    assert any("one by one" in note for note in file.notes)


def test_a_batch_size_that_is_frozen_inside_the_graph_is_found(tmp_path: Path) -> None:
    nodes, weights = linear()
    nodes[0] = helper.make_node("Reshape", ["images", "shape"], ["flat"])  # declared for any batch, works for one image
    weights["shape"] = np.array([1, 768], dtype=np.int64)
    file = OnnxFile(save(tmp_path / "m.onnx", nodes, weights=weights), threads=1)
    np.testing.assert_allclose(file.embed(images(3)), expected(images(3)), atol=1e-5)
    assert any("accepts only one image" in note for note in file.notes)


@pytest.mark.parametrize(
    ("scale", "change"),
    [
        (PixelScale.SYMMETRIC, lambda x: 2 * x - 1),
        (PixelScale.BYTES, lambda x: 255 * x),
        (
            PixelScale.IMAGENET,
            lambda x: (x - np.reshape(IMAGENET_MEAN, (1, 3, 1, 1))) / np.reshape(IMAGENET_STD, (1, 3, 1, 1)),
        ),
    ],
)
def test_pixels_are_scaled_as_asked(tmp_path: Path, scale: PixelScale, change: "np.ufunc") -> None:
    file = OnnxFile(write_linear(tmp_path / "m.onnx"), threads=1, scale=scale)
    np.testing.assert_allclose(file.embed(images(3)), expected(change(images(3))), atol=1e-4)


def pooled(path: Path, *, outputs: dict[str, list[int | str]] | None = None) -> Path:
    nodes = [helper.make_node("GlobalAveragePool", ["images"], ["embeddings"])]
    if outputs:
        nodes.append(helper.make_node("Identity", ["embeddings"], ["other"]))
    return save(path, nodes, shape=["batch", 3, "h", "h"], outputs=outputs or {"embeddings": ["batch", 3, 1, 1]})


def test_the_size_is_chosen_if_not_fixed_and_pooled_axes_are_removed(tmp_path: Path) -> None:
    file = OnnxFile(pooled(tmp_path / "m.onnx"), threads=1, size=24)
    assert (file.size, file.dimension) == (24, 3)
    assert file.embed(images(2, 24)).shape == (2, 3)
    default = OnnxFile(pooled(tmp_path / "m.onnx"), threads=1)
    assert default.size == DEFAULT_SIZE
    assert any("does not fix the size" in note for note in default.notes)


def test_one_of_several_outputs_is_chosen(tmp_path: Path) -> None:
    both: dict[str, list[int | str]] = {"embeddings": ["batch", 3, 1, 1], "other": ["batch", 3, 1, 1]}
    path = pooled(tmp_path / "m.onnx", outputs=both)
    with pytest.raises(SubjectError, match=r"2 outputs \(embeddings, other\)"):
        OnnxFile(path, threads=1)
    with pytest.raises(SubjectError, match="no output 'third'"):
        OnnxFile(path, threads=1, output="third")
    assert OnnxFile(path, threads=1, output="other").dimension == 3


def test_files_that_are_not_onnx_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(SubjectError, match="cannot be read"):
        OnnxFile(path)
    whole = write_linear(tmp_path / "whole.onnx").read_bytes()
    half = whole[: len(whole) // 2]
    for data, message in ((b"", "empty"), (b"\x00\xff garbage" * 100, "not an ONNX file"), (half, "ONNX")):
        path.write_bytes(data)
        with pytest.raises(SubjectError, match=message):
            OnnxFile(path)
    with pytest.raises(SubjectError, match="larger than the limit"):
        read_onnx(tmp_path / "whole.onnx", largest=1000)
    with pytest.raises(SubjectError, match="cannot be read"):
        OnnxFile(tmp_path)


def test_inputs_that_are_not_images_are_refused(tmp_path: Path) -> None:
    nodes, weights = linear()
    path = tmp_path / "m.onnx"
    with pytest.raises(SubjectError, match="2 inputs"):
        OnnxFile(save(path, nodes, weights=weights, inputs=2))
    identity = [helper.make_node("Cast", ["images"], ["embeddings"], to=TensorProto.FLOAT)]
    with pytest.raises(SubjectError, match="uint8 images"):
        OnnxFile(save(path, identity, kind=TensorProto.UINT8, outputs={"embeddings": ["batch", 3, 16, 16]}))
    flat = [helper.make_node("Flatten", ["images"], ["embeddings"], axis=1)]
    cases: list[tuple[Shape, str]] = [
        ([1, 16, 16, 3], r"1, 16, 16, 3"),
        (["batch", 3, 16, 20], "square"),
        (["batch", 1, 16, 16], r"\(N,3,S,S\)"),
        (["batch", 768], "768"),
    ]
    for shape, shown in cases:
        with pytest.raises(SubjectError, match=shown):
            OnnxFile(save(path, flat, shape=shape, outputs={"embeddings": ["batch", "D"]}))


def test_outputs_that_are_not_embeddings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    identity = [helper.make_node("Identity", ["images"], ["embeddings"])]
    with pytest.raises(SubjectError, match="one row for each image"):
        OnnxFile(save(path, identity, outputs={"embeddings": ["batch", 3, 16, 16]}), threads=1)
    with pytest.raises(SubjectError, match="1 coordinates"):
        OnnxFile(write_linear(path, dimension=1), threads=1)
    constant = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),
        helper.make_node("Mul", ["flat", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "one"], ["embeddings"]),
    ]
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    with pytest.raises(SubjectError, match="one embedding"):
        OnnxFile(save(path, constant, weights={"zero": zero, "one": one}), threads=1)
    with pytest.raises(SubjectError, match="length 0"):
        OnnxFile(save(path, constant, weights={"zero": zero, "one": zero}), threads=1)
    with pytest.raises(SubjectError, match="not finite"):
        OnnxFile(save(path, constant, weights={"zero": zero, "one": one * np.nan}), threads=1)


def test_pixels_of_another_size_are_refused(tmp_path: Path) -> None:
    file = OnnxFile(write_linear(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(SubjectError, match=r"\(N,3,16,16\)"):
        file.embed(images(1, 20))
