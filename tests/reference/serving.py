"""The plain parts of a query, in a process that does nothing else: what the server is measured against.

    python -m tests.reference.serving onnxruntime|blocking|pytorch BUNDLE

Reads a line of JSON with a task, does it, writes a line with the seconds it took. Tasks: {"do": "query", "image": FILE}
decodes a file and embeds it; {"do": "batch", "size": N} embeds N images at once.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Embed = Callable[[npt.NDArray[np.float32]], object]


def onnxruntime_embed(bundle: Path, *, spinning: bool) -> Embed:
    """ONNX Runtime with a thread for each core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"images": pixels})


def pytorch_embed(bundle: Path) -> Embed:
    """PyTorch in eager mode, as one writes it."""
    import torch

    from hardrank.models.bundle import load_embedder

    embedder = load_embedder(bundle)

    def embed(pixels: npt.NDArray[np.float32]) -> object:
        with torch.inference_mode():
            return embedder(torch.from_numpy(pixels))

    return embed


def decode(data: bytes) -> Image.Image:
    """Pillow's decoder and nothing else."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def pixels_of(image: Image.Image, resize: int, crop: int) -> npt.NDArray[np.float32]:
    """The network's input (1,3,crop,crop), as one writes it."""
    square = image.resize((resize, resize), Image.Resampling.BILINEAR)
    start = (resize - crop) // 2
    cut = np.asarray(square)[start : start + crop, start : start + crop]
    return np.ascontiguousarray(cut.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def carry_out(task: dict[str, Any], embed: Embed, size: tuple[int, int]) -> dict[str, float]:
    """Do a task; gives seconds by part."""
    if task["do"] == "batch":
        pixels = np.random.default_rng(0).random((task["size"], 3, size[1], size[1]), dtype=np.float32)
        began = time.perf_counter()
        embed(pixels)
        return {"embed": time.perf_counter() - began}
    data = Path(task["image"]).read_bytes()
    began = time.perf_counter()
    image = decode(data)
    decoded = time.perf_counter()
    pixels = pixels_of(image, *size)
    prepared = time.perf_counter()
    embed(pixels)
    return {"decode": decoded - began, "prepare": prepared - decoded, "embed": time.perf_counter() - prepared}


def main() -> None:
    """Serve tasks until the input ends."""
    kind, bundle = sys.argv[1], Path(sys.argv[2])
    card = json.loads((bundle / "card.json").read_text(encoding="utf-8"))
    size = (card["preprocessing"]["resize"], card["preprocessing"]["crop"])
    embed = pytorch_embed(bundle) if kind == "pytorch" else onnxruntime_embed(bundle, spinning=kind != "blocking")
    for line in sys.stdin:
        print(json.dumps(carry_out(json.loads(line), embed, size)), flush=True)


if __name__ == "__main__":
    main()
