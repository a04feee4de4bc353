"""Do images that are expensive to decode make other callers wait?

    python benchmarks/hostile_images.py           # five minutes
    python benchmarks/hostile_images.py --tiny    # a try, in a minute

One caller sends single queries, first alone, then while another caller sends hostile images over several connections at
once, one kind after the other. Each caller has its own API key and address. Half of the kinds are refused from their
headers; the others are the most expensive that the limits allow. The result has the percentiles of the first caller's
queries, their ratio to those alone, and the peak memory of the server. It goes to
benchmarks/results/hostile_images.json.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from PIL import Image

from benchmarks.attacker import Attacker, Sent, percentiles, query_ms
from benchmarks.command import BenchmarkOptions, environment, parse_options
from benchmarks.serving_processes import served
from benchmarks.serving_scene import prepare
from hardrank.serving.api.auth import READ_VARIABLE, new_key
from tests.models import hostile_images as hostile

LIMIT: Final = 4
"""Largest acceptable ratio of the 99th percentile under attack to that alone."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"queries": 20, "side": 1500, "connections": 4, "items": 200}

    queries: int = 250
    """Most queries of the first caller per attack."""
    seconds: float = 14.0
    """Most seconds per attack, and alone."""
    side: int = 6000
    """Pixels a side of the hostile images that are decoded."""
    connections: int = 16
    """Connections of the attacker."""
    items: int = 500
    """Items of the gallery."""


def attacks(side: int) -> Mapping[str, Callable[[], bytes]]:
    """Return the hostile files by name."""
    plain = Image.new("RGB", (side, side), (9, 99, 199))
    # About as many as the limits allow, beside the six or so of the image itself.
    scans = max(1, min(80, 650_000_000 // (side * side)))
    noise = Image.effect_noise((side // 2, side // 2), 60).convert("RGB")
    small = Image.effect_noise((side // 3, side // 3), 60).convert("RGB")
    return {
        "TIFF, one large tile": lambda: hostile.tiff_of_one_large_tile(16_000),
        "TIFF, 3 million strips": hostile.tiff_of_many_strips,
        "TIFF, unknown tags": hostile.tiff_of_unknown_tags,
        "TIFF, strips of one byte": hostile.tiff_of_small_strips,
        "TIFF, floats": lambda: hostile.deflated_tiff(side, side, bits=32, sample_format=3),
        "JPEG, scans": lambda: hostile.jpeg_of_scans(side, scans),
        "JPEG, bytes between segments": lambda: hostile.jpeg_with(b"\xff" * 32_000_000),
        "JPEG, tables": hostile.jpeg_of_tables,
        "PNG": lambda: hostile.encoded(plain, "PNG"),
        "PNG, noise": lambda: hostile.encoded(noise, "PNG", compress_level=1),
        "PNG, large text": lambda: hostile.png_with(
            hostile.png_chunk(b"zTXt", bytes(20_000_000)), noise.crop((0, 0, 9, 9))
        ),
        "PNG, empty frames": lambda: hostile.empty_frames(side // 6, 30),
        "PNG, a frame in small chunks": lambda: hostile.frame_in_chunks(9900, 3200),
        "PNG, many chunks": lambda: hostile.png_with(
            hostile.png_chunk(b"IDAT", b"") * 9900 + hostile.png_chunk(b"tEXt", bytes(9_200_000)), plain
        ),
        "PNG, a million chunks": lambda: hostile.png_with(hostile.png_chunk(b"IDAT", b"") * 1_000_000, plain),
        "WebP": lambda: hostile.encoded(plain, "WEBP", lossless=True, method=0),
        "WebP, noise": lambda: hostile.encoded(noise, "WEBP", lossless=True, method=0, quality=0),
        "WebP, canvas": lambda: hostile.webp_canvas(16_000, 16_000),
        "GIF": lambda: hostile.encoded(plain.convert("P"), "GIF"),
        "GIF, large frames": lambda: hostile.gif_frames(hostile.empty_gif_frame(side), count=60),
        "GIF, bytes between frames": lambda: hostile.gif_frames(bytes(60_000) + hostile.empty_gif_frame(1), count=500),
        "GIF, small blocks": hostile.gif_of_blocks,
        "GIF, canvas": lambda: hostile.gif_canvas(12_000, 12_000),
        "AVIF": lambda: hostile.encoded(small, "AVIF", speed=10),
        "JPEG 2000": lambda: hostile.encoded(small, "JPEG2000", quality_mode="rates", quality_layers=[20]),
        "AVIF, larger than it tells": lambda: hostile.avif_that_tells(
            16, 16, hostile.encoded(Image.new("RGB", (8000, 8000)), "AVIF", speed=10)
        ),
        "HEIC, boxes": hostile.heic_of_boxes,
        "JPEG 2000, boxes": hostile.jpeg2000_of_boxes,
        "JPEG 2000, precincts": hostile.jpeg2000_of_precincts,
        "BMP, run-length encoded": lambda: hostile.rle_bmp(1900, 1900, b"\1\2" * 190_000),
    }


def measure(options: Options) -> dict[str, Any]:
    """Measure alone, then under each attack, then alone again."""
    caller, attacker = new_key(), new_key()
    os.environ[READ_VARIABLE] = f"{caller},{attacker}"
    with tempfile.TemporaryDirectory() as folder:
        scene = prepare(Path(folder), options.items)
        image = scene.first.read_bytes()
        with served(scene, "--no-page") as server:
            query_ms(server, image, caller, 20, options.seconds)
            before = query_ms(server, image, caller, options.queries, options.seconds)
            resting = server.memory
            found: dict[str, dict[str, Any]] = {}
            for name, make in attacks(options.side).items():
                data = make()
                with Attacker(server, Sent(body=data), attacker, options.connections) as attack:
                    taken = query_ms(server, image, caller, options.queries, options.seconds)
                found[name] = {
                    "file_bytes": len(data),
                    "queries": len(taken),
                    "statuses": dict(attack.statuses),
                    **percentiles(taken),
                    "peak_mib_over_resting": round((attack.peak_bytes - resting) / 2**20),
                }
                print(name, found[name], file=sys.stderr, flush=True)
            after = query_ms(server, image, caller, options.queries, options.seconds)
    alone = percentiles(before + after)
    for row in found.values():
        row["p99_over_alone"] = round(row["p99_ms"] / alone["p99_ms"], 2)
    worst = max(row["p99_over_alone"] for row in found.values())
    return {"alone": alone, "attacks": found, "worst_p99_over_alone": worst, "limit": LIMIT, "met": worst <= LIMIT}


def main() -> int:
    """Run the benchmark."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    load = os.getloadavg()[0]
    result = measure(options)
    options.write(
        "hostile_images",
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": "python " + " ".join(sys.argv),
            **result,
            "most_queries": options.queries,
            "load_average_before": round(load, 1),
            "side": options.side,
            "connections": options.connections,
            **environment(),
        },
    )
    return 0 if options.tiny or result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
