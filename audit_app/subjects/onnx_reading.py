"""Reads and checks an ONNX file that may come from anyone, with its weights in a file beside it."""

import hashlib
import math
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from hardrank.audit_app.errors import SubjectError

LARGEST_FILE: Final = 512 * 2**20
"""Largest size of a file and its external weights together, bytes."""
_EXTERNAL: Final = onnx.TensorProto.EXTERNAL


@dataclass(frozen=True)
class OnnxContent:
    """A checked model, all of it in memory."""

    model: onnx.ModelProto
    data: bytes
    """The model serialized, with its weights."""
    sha256: str
    """Of the file; of the file followed by those with its weights, if there are any."""


def read_onnx(path: Path, *, largest: int = LARGEST_FILE) -> OnnxContent:
    """Read an ONNX file and check that it is valid.

    Args:
        path: The file. Weights in other files are read if these are in the same folder.
        largest: Largest size of all files together, bytes.

    Raises:
        SubjectError: The file cannot be read, is too large, is not valid ONNX, was exported in training mode, or keeps
            weights elsewhere than beside it.
    """
    data = _read(path, largest, path)
    whole = hashlib.sha256(data)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError is not public
        raise SubjectError(f"{path} is not an ONNX file, or is damaged ({first_line(error)})") from error
    if not model.graph.node:
        raise SubjectError(f"{path} is not an ONNX file, or has no network in it")
    external = [one for one in _tensors(model) if one.data_location == _EXTERNAL or one.external_data]
    if external:
        for beside in _load_external(path, external, largest - len(data)):
            whole.update(beside)
        data = model.SerializeToString()
    try:
        onnx.checker.check_model(data, full_check=True)
    except Exception as error:  # these exceptions have no common base class
        raise SubjectError(f"{path} is not valid ONNX ({first_line(error)}); export it again") from error
    if (trained := _in_training_mode(model)) is not None:
        raise SubjectError(
            f"{path} was exported in training mode ({trained}), so its embeddings are random or depend on the batch; "
            "call model.eval() and export it again"
        )
    return OnnxContent(model, data, whole.hexdigest())


def first_line(error: BaseException) -> str:
    """Return the first line of a message, in printable characters."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return printable(text.strip(), 200)


def printable(text: str, most: int = 60) -> str:
    """Return text of a file for a message: short, and without control characters."""
    shown = re.sub(r"[^\x20-\x7e\u00a0-\uffff]", "?", text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _read(path: Path, largest: int, model: Path) -> bytes:
    try:
        if path.exists() and not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
            raise SubjectError(f"{path} is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(max(0, largest) + 1)
    except OSError as error:
        raise SubjectError(f"{path} cannot be read ({error.strerror or error}); check its path and rights") from error
    if len(data) > largest:
        raise SubjectError(f"{model} is larger than the limit for an ONNX file with its weights")
    if not data:
        raise SubjectError(f"{path} is empty; give a complete ONNX file")
    return data


def _load_external(path: Path, tensors: list[onnx.TensorProto], largest: int) -> list[bytes]:
    """Move the external data of `tensors` into the model; return the contents of the files, in order of their names."""
    found: dict[str, bytes] = {}
    for tensor in tensors:
        info = {entry.key: entry.value for entry in tensor.external_data}
        location = info.get("location", "")
        if location not in found:
            file = _file_beside(path, location, tensor.name)
            left = largest - sum(map(len, found.values()))
            found[location] = _read(file, left, path)
        tensor.raw_data = _part(path, tensor, info, found[location])
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return [found[name] for name in sorted(found)]


def _file_beside(path: Path, location: str, tensor: str) -> Path:
    """Return the path of a file with weights; only files in the folder of the model are allowed."""
    shown = f"{path} keeps weights ({printable(tensor)}) in {printable(location)!r}"
    if not location or location in {".", ".."} or re.search(r"[/\\:\x00]", location):
        raise SubjectError(f"{shown}; only a file in the same folder is read: save the weights beside the model")
    file = path.parent / location
    if not file.exists():
        raise SubjectError(
            f"{shown}, which does not exist; put that file beside the model, or save everything in one: "
            "onnx.save(onnx.load(FILE), NEW_FILE, save_as_external_data=False)"
        )
    # A link may lead to the folder that the model itself is linked from, as in the cache of the Hugging Face Hub.
    if file.resolve().parent not in {path.parent.resolve(), path.resolve().parent}:
        raise SubjectError(f"{shown}, a link to another folder; only a file in the same folder is read")
    return file


def _part(path: Path, tensor: onnx.TensorProto, info: dict[str, str], data: bytes) -> bytes:
    """Return the bytes of a tensor in a file of weights."""
    try:
        offset = int(info.get("offset", "0"))
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        needed = math.prod(tensor.dims) * item
        length = int(info.get("length", str(needed)))
    except (KeyError, TypeError, ValueError) as error:
        raise SubjectError(f"{path}: the place of the weights {printable(tensor.name)} is invalid ({error})") from error
    if offset < 0 or length != needed or offset + length > len(data):
        raise SubjectError(
            f"{path}: the weights {printable(tensor.name)} need {needed} bytes at {offset}, and their file has "
            f"{len(data)}; copy the complete file"
        )
    return data[offset : offset + length]


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, of every graph, function and attribute."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        part = pending.pop()
        yield from getattr(part, "initializer", ())
        for sparse in getattr(part, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in (a for node in part.node for a in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            pending += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _in_training_mode(model: onnx.ModelProto) -> str | None:
    """Return the operator that acts as in training, if there is one."""
    weights = {one.name: one for one in model.graph.initializer}
    weights |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for node in model.graph.node:
        trained = any(attribute.i for attribute in node.attribute if attribute.name == "training_mode")
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in weights:
            trained = bool(onnx.numpy_helper.to_array(weights[node.input[2]]).any())
        if trained and node.op_type in {"BatchNormalization", "Dropout"}:
            return str(node.op_type)
    return None
