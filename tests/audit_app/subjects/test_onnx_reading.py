"""Reading ONNX files: weights in a file beside the model, and what is refused."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hardrank.audit_app.errors import SubjectError
from hardrank.audit_app.subjects.loading import load_subject
from hardrank.audit_app.subjects.onnx_reading import read_onnx
from tests.audit_app.galleries import OPTIONS
from tests.audit_app.onnx_graphs import linear, save, with_external, write_linear


def moved(path: Path, location: str, **info: str) -> Path:
    """Write a model whose weights are said to be at `location`."""
    model = onnx.load(with_external(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = {"location": location, **info}.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = load_subject(str(write_linear(tmp_path / "whole" / "m.onnx")), OPTIONS)
    path = with_external(tmp_path / "m.onnx")
    split = load_subject(str(path), OPTIONS)
    pixels = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    np.testing.assert_array_equal(split.serve(pixels), whole.serve(pixels))
    assert split.white_box
    weights = tmp_path / "beside.bin"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert read_onnx(path).sha256 != split.sha256  # the hash covers the weights


@pytest.mark.parametrize("location", ["../beside.bin", "/etc/passwd", "sub/beside.bin", "..", "", "a\\b", "C:x"])
def test_weights_in_other_folders_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "models" / "sub").mkdir(parents=True)
    path = moved(tmp_path / "models" / "m.onnx", location)
    (tmp_path / "models" / "beside.bin").rename(tmp_path / "beside.bin")
    (tmp_path / "models" / "sub" / "beside.bin").write_bytes((tmp_path / "beside.bin").read_bytes())
    with pytest.raises(SubjectError, match="only a file in the same folder"):
        read_onnx(path)


def test_links_to_other_folders_are_refused_unless_the_model_is_linked_from_there(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "folder"
    store.mkdir()
    folder.mkdir()
    path = with_external(store / "m.onnx")
    os.link(path, folder / "m.onnx")
    (folder / "beside.bin").symlink_to(store / "beside.bin")
    with pytest.raises(SubjectError, match="link to another folder"):
        read_onnx(folder / "m.onnx")
    (folder / "m.onnx").unlink()
    (folder / "m.onnx").symlink_to(path)
    assert read_onnx(folder / "m.onnx").sha256 == read_onnx(path).sha256


def test_missing_short_and_large_files_of_weights_are_refused(tmp_path: Path) -> None:
    path = with_external(tmp_path / "m.onnx")
    weights = tmp_path / "beside.bin"
    data = weights.read_bytes()
    with pytest.raises(SubjectError, match="larger than the limit"):
        read_onnx(path, largest=path.stat().st_size + len(data) - 1)
    weights.write_bytes(data[:-1])
    with pytest.raises(SubjectError, match=f"need {len(data)} bytes"):
        read_onnx(path)
    weights.unlink()
    with pytest.raises(SubjectError, match="does not exist"):
        read_onnx(path)
    os.mkfifo(weights)
    with pytest.raises(SubjectError, match="not a regular file"):
        read_onnx(path)


@pytest.mark.parametrize("info", [{"offset": "-4"}, {"length": "8"}, {"offset": "many"}, {"offset": "4"}])
def test_an_invalid_place_in_the_file_is_refused(tmp_path: Path, info: dict[str, str]) -> None:
    model = onnx.load(with_external(tmp_path / "m.onnx"), load_external_data=False)
    found = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    for key, value in info.items():
        entry = found.get(key) or model.graph.initializer[0].external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SubjectError, match="weight"):
        read_onnx(tmp_path / "m.onnx")


def test_weights_elsewhere_are_found_in_attributes_too(tmp_path: Path) -> None:
    hidden = helper.make_tensor("sneaky", TensorProto.FLOAT, [1], [1.0])
    hidden.ClearField("float_data")
    hidden.data_location = TensorProto.EXTERNAL
    entry = hidden.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    nodes, weights = linear()
    nodes.append(helper.make_node("Constant", [], ["unused"], value=hidden))
    with pytest.raises(SubjectError, match="sneaky"):
        read_onnx(save(tmp_path / "m.onnx", nodes, weights=weights))


def test_a_network_in_training_mode_is_refused(tmp_path: Path) -> None:
    nodes, weights = linear()
    nodes[0].input[0] = "dropped"
    nodes.insert(0, helper.make_node("Dropout", ["images", "", "training"], ["dropped"]))
    weights["training"] = np.array(True)
    with pytest.raises(SubjectError, match=r"training mode \(Dropout\)"):
        read_onnx(save(tmp_path / "m.onnx", nodes, weights=weights))
    nodes[0] = helper.make_node(
        "BatchNormalization", ["images", "one", "zero", "zero", "one"], ["dropped", "mean", "var"], training_mode=1
    )
    weights |= {"one": np.ones(3, np.float32), "zero": np.zeros(3, np.float32)}
    del weights["training"]
    with pytest.raises(SubjectError, match=r"training mode \(BatchNormalization\)"):
        read_onnx(save(tmp_path / "m.onnx", nodes, weights=weights))
