"""Decode expensive images in a process of its own, which cannot make the server wait.

Some decoders hold the interpreter for seconds, and large images take much memory. The process has a lower priority, a
limit of memory and a limit of time. A decoder that crashes ends this process alone; the next image starts another.

The process reads requests from its standard input and writes responses to its standard output: the length of a header,
the header as JSON, and bytes. It ends when its input does.
"""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any, Final

import numpy as np

from hardrank.models.decode_limits import DecodeLimits, ImageTooLargeError, MissingDecoderError, UndecodableImageError
from hardrank.models.preprocessing import Preprocessing
from hardrank.serving.search.decoded_image import DecodedImage, decode_image

TIMEOUT_S: Final = 60.0
MEMORY_BYTES: Final = 4 * 2**30
"""Of address space, which is more than the memory that is used."""
_NICENESS: Final = 19
_ERRORS: Final = {error.__name__: error for error in (ImageTooLargeError, MissingDecoderError, UndecodableImageError)}


class DecodingProcess:
    """A process that decodes one image at a time; it starts with the first one. Safe to use from several threads."""

    def __init__(
        self,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
        program: Sequence[str] = (sys.executable, "-m", "hardrank.serving.search.decoding_process"),
    ) -> None:
        """Take the limits of time and memory for one image, and the program to run."""
        self._timeout_s, self._memory_bytes, self._program = timeout_s, memory_bytes, program
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Number of the process; None if it does not run."""
        return None if self._process is None else self._process.pid

    def decode(
        self, data: bytes, sizes: Sequence[Preprocessing], limits: DecodeLimits, *, thumbnail: int
    ) -> DecodedImage:
        """Decode an image as `decode_image`; raises `ImageTooLargeError` if that takes too long or too much memory."""
        with self._lock:
            process = self._started()
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(self._timeout_s, end)
            timer.start()
            try:
                header = {
                    "limits": asdict(limits), "sizes": [size.to_dict() for size in sizes], "thumbnail": thumbnail,
                    "bytes": len(data),
                }  # fmt: skip
                assert process.stdin is not None
                assert process.stdout is not None
                _write(process.stdin, header, data)
                return _response(process.stdout, sizes)
            except UndecodableImageError:
                raise  # the answer of the process, which is ready for the next image
            except (OSError, EOFError, ValueError) as error:
                self._end()
                if late.is_set():
                    raise ImageTooLargeError(
                        f"Decoding the image takes more than {self._timeout_s:g} s; use a smaller one."
                    ) from error
                raise UndecodableImageError("The image makes its decoder crash; use an intact file.") from error
            except BaseException:
                self._end()  # the rest of its answer would be read as that to the next image
                raise
            finally:
                timer.cancel()
                timer.join()
                if late.is_set():  # perhaps just after the answer
                    self._end()

    def close(self) -> None:
        """End the process, if it was started."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            path = os.pathsep.join(filter(None, sys.path))
            self._process = subprocess.Popen(
                [*self._program, str(self._memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                # Ctrl+C is for the server, which then closes this process. In a session of its own, Linux would share
                # the cores equally between it and the server, whatever its niceness (autogroups, sched(7)).
                process_group=0,
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(OSError):
                self._process.communicate()
            self._process = None


def main() -> int:
    """Answer requests until the input ends."""
    _limit(int(sys.argv[1]))
    requests, responses = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what libraries print is no answer
    while True:
        try:
            header, data = _read(requests)
        except EOFError:
            return 0
        _answer(responses, header, data)


def _answer(responses: IO[bytes], header: Mapping[str, Any], data: bytes) -> None:
    sizes = [Preprocessing.from_dict(size) for size in header["sizes"]]
    try:
        decoded = decode_image(data, sizes, DecodeLimits(**header["limits"]), thumbnail=header["thumbnail"])
    except UndecodableImageError as error:
        _write(responses, {"error": type(error).__name__, "text": str(error), "bytes": 0}, b"")
        return
    parts = [decoded.thumbnail, *(decoded.pixels[size].tobytes() for size in sizes)]
    body = b"".join(parts)
    found = {"width": decoded.width, "height": decoded.height, "thumbnail": len(parts[0]), "bytes": len(body)}
    _write(responses, found, body)


def _response(stream: IO[bytes], sizes: Sequence[Preprocessing]) -> DecodedImage:
    header, body = _read(stream)
    if "error" in header:
        raise _ERRORS.get(header["error"], UndecodableImageError)(header["text"])
    pixels, start = {}, header["thumbnail"]
    for size in sizes:
        count = 3 * size.crop * size.crop
        pixels[size] = np.frombuffer(body, np.uint8, count, start).reshape(3, size.crop, size.crop)
        start += count
    return DecodedImage(
        pixels=pixels, width=header["width"], height=header["height"], thumbnail=body[: header["thumbnail"]]
    )


def _write(stream: IO[bytes], header: Mapping[str, Any], body: bytes) -> None:
    """Write a message; `header` has the length of the body."""
    encoded = json.dumps(header).encode()
    stream.write(struct.pack(">I", len(encoded)) + encoded)
    stream.write(body)
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack(">I", _exactly(stream, 4))
    header: dict[str, Any] = json.loads(_exactly(stream, length))
    return header, _exactly(stream, header["bytes"])


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _limit(memory_bytes: int) -> None:
    with suppress(AttributeError, OSError):
        os.nice(_NICENESS)
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
