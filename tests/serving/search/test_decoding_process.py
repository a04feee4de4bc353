"""Expensive images are decoded in another process, with the same result and limits of time and memory."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from hardrank.models.decode_limits import (
    DEFAULT_LIMITS,
    CostlyImageError,
    DecodeLimits,
    ImageTooLargeError,
    UndecodableImageError,
)
from hardrank.models.preprocessing import Fit, Preprocessing
from hardrank.serving.search.decoded_image import decode_image
from hardrank.serving.search.decoding_process import DecodingProcess
from tests.models import hostile_images as hostile
from tests.serving import served

SIZES = [Preprocessing(resize=32, crop=28), Preprocessing(resize=40, crop=40, fit=Fit.SHORTEST)]
PICTURE = Image.effect_noise((120, 80), 60).convert("RGB")


@pytest.fixture(scope="module")
def process() -> Iterator[DecodingProcess]:
    process = DecodingProcess()
    yield process
    process.close()


def encoded(kind: str = "PNG") -> bytes:
    return served.encoded(PICTURE, kind)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "JPEG2000"])
def test_the_result_is_that_of_this_process(process: DecodingProcess, kind: str) -> None:
    here = decode_image(encoded(kind), SIZES, DEFAULT_LIMITS, thumbnail=96)
    there = process.decode(encoded(kind), SIZES, DEFAULT_LIMITS, thumbnail=96)
    assert (there.width, there.height, there.thumbnail) == (120, 80, here.thumbnail)
    for size in SIZES:
        assert np.array_equal(there.pixels[size], here.pixels[size])


def test_errors_keep_their_type_and_text(process: DecodingProcess) -> None:
    with pytest.raises(ImageTooLargeError, match="120×80 pixels, above the limit of 100"):
        process.decode(encoded(), SIZES, DecodeLimits(max_pixels=100), thumbnail=0)
    with pytest.raises(UndecodableImageError, match="not an image"):
        process.decode(b"other bytes", SIZES, DEFAULT_LIMITS, thumbnail=0)
    assert process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0).thumbnail == b""


@pytest.mark.parametrize(
    "end",
    ["sys.exit(1)", r"os.write(1, b'\0\0\0\2{]'); time.sleep(60)", r"os.write(1, b'\0\0\0\1\xff'); time.sleep(60)"],
    ids=["crashes", "answers no JSON", "answers no text"],
)
def test_a_crash_is_an_error_of_one_image(end: str) -> None:
    code = f"import os, sys, time; sys.stdin.buffer.read(100); {end}"
    process = DecodingProcess(program=[sys.executable, "-c", code], timeout_s=5)
    for _ in range(2):
        with pytest.raises(UndecodableImageError, match="crash"):
            process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0)
        assert process.pid is None, "the next image gets another process"


def test_an_answer_that_cannot_be_read_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the answer must not be taken for that to the next image."""
    process = DecodingProcess()

    def read(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("hardrank.serving.search.decoding_process._response", read)
        with pytest.raises(MemoryError):
            process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0)
    with pytest.raises(UndecodableImageError, match="not an image"):
        process.decode(b"other bytes", SIZES, DEFAULT_LIMITS, thumbnail=0)
    process.close()


def test_a_process_that_was_killed_is_started_again(process: DecodingProcess) -> None:
    process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with suppress(UndecodableImageError):  # if its end is not noticed before the request is sent
        process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0)
    assert process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0).width == 120


@pytest.mark.skipif(sys.platform != "linux", reason="other systems schedule in another way")
def test_its_priority_is_compared_with_that_of_the_server(process: DecodingProcess) -> None:
    """A process in a session of its own gets an equal share of the cores, whatever its niceness (autogroups)."""
    process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0)
    assert process.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    assert os.getsid(process.pid) == os.getsid(0)
    assert os.getpgid(process.pid) != os.getpgid(0)  # Ctrl+C is for the server alone


def test_time_is_limited() -> None:
    process = DecodingProcess(timeout_s=0.05)  # less than the process takes to start
    with pytest.raises(ImageTooLargeError, match=r"more than 0\.05 s"):
        process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0)
    process.close()


@pytest.mark.skipif(os.name == "nt", reason="no limit of memory")
def test_memory_is_limited() -> None:
    process = DecodingProcess(memory_bytes=700 * 2**20)
    data = hostile.deflated_tiff(16_000, 16_000)
    with pytest.raises(UndecodableImageError):
        process.decode(data, SIZES, DecodeLimits(max_pixels=10**9, max_buffer=2**30), thumbnail=0)
    assert process.decode(encoded(), SIZES, DEFAULT_LIMITS, thumbnail=0).width == 120
    process.close()


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_decoders_that_make_threads_wait_are_costly(kind: str) -> None:
    with pytest.raises(CostlyImageError):
        decode_image(encoded(kind), SIZES, DEFAULT_LIMITS, thumbnail=0, max_work=10**9)


def test_costs_are_pixels_scans_and_empty_frames() -> None:
    def cost_at_most(data: bytes, work: int) -> None:
        decode_image(data, SIZES, DEFAULT_LIMITS, thumbnail=0, max_work=work)

    cost_at_most(encoded(), 120 * 80)
    scans = hostile.jpeg_of_scans(64, 20)
    first, *rest = (Image.new("RGBA", (64, 64), (number, 0, 0, 0)) for number in range(9))
    frames = served.encoded(first, save_all=True, append_images=rest)
    for data, work in [(encoded(), 120 * 80), (scans, 64 * 64 * 20), (frames, 64 * 64 * 8)]:
        with pytest.raises(CostlyImageError):
            cost_at_most(data, work - 1)
    cost_at_most(frames, 64 * 64 * 8)
