"""What does serving cost on top of the network, alone and under load, and does it stay so?

    python benchmarks/serving.py query clients soak [--minutes 10]

ResNet-18 at 224 px, random weights, exported as the trainer does; 100 000 × 512 items; 300×200 JPEG. The server runs
as its command runs it; the bare network and PyTorch run in processes of their own, turn by turn with it. Sections run
alone too, and leave the others in benchmarks/results/serving.json as they were.
"""

import argparse
import io
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from models.bundle import ONNX, WEIGHTS, ArchitectureEntry, Card, FileEntry, PreprocessingEntry, save_bundle  # noqa: E402
from models.embedder import Architecture, build_embedder  # noqa: E402
from models.files import write_json  # noqa: E402
from serving.engine import Engine  # noqa: E402
from serving.gallery import NewItem  # noqa: E402
from serving.identity import IndexIdentity  # noqa: E402
from serving.index.options import BackendOptions  # noqa: E402
from serving.search_index import SearchIndex  # noqa: E402
from trainer.environment import hardware, versions  # noqa: E402
from trainer.export import export_onnx, save_weights  # noqa: E402

RESULT: Final = ROOT / "benchmarks/results/serving.json"
DIMENSION: Final = 512
BATCH: Final = 32
IMAGES: Final = 64
_PAUSE_S: Final = 0.02
"""Between turns, so that one's threads have stopped spinning when the next begins."""


# ---------------------------------------------------------------------- what is served


def write_bundle(folder: Path) -> Path:
    """ResNet-18 at 224 px with random weights, as the bundle `folder`."""
    architecture = Architecture(backbone="resnet18", dimension=DIMENSION, image_size=224)
    torch.manual_seed(0)
    embedder = build_embedder(architecture).eval()

    def write(unfinished: Path) -> None:
        export_onnx(embedder, unfinished / ONNX)
        save_weights(embedder, unfinished / WEIGHTS)

    def card(files: dict[str, FileEntry]) -> Card:
        return Card(
            name="resnet18",
            run_id="benchmark",
            created=datetime.now(UTC),
            command="python benchmarks/serving.py",
            defense="none",
            recipe="none",
            config={},
            seeds={"run": 0},
            architecture=ArchitectureEntry(**vars(architecture)),
            preprocessing=PreprocessingEntry(resize=256, crop=224),
            data={},
            metrics={},
            robustness=None,
            parity={},
            versions=versions(),
            hardware={},
            durations={},
            files=files,
        )

    save_bundle(folder, card, write, overwrite=True)
    return folder


def photograph(seed: int) -> bytes:
    """A 300×200 JPEG with about as much detail as a photograph."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize(
        (300, 200), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, dtype=np.float32) + generator.normal(0, 12, (200, 300, 3))
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=88)
    return stream.getvalue()


def write_images(folder: Path) -> Path:
    """The images that are sent; their names are the ids under which they are indexed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(IMAGES):
        (folder / f"sent-{number:02}.jpg").write_bytes(photograph(number))
    return folder


def write_index(folder: Path, bundle: Path, images: Path, size: int) -> Path:
    """`size` items around random centres, with the structure that is chosen for so many; then the images themselves."""
    engine = Engine(bundle)
    identity = IndexIdentity(
        model=engine.name,
        model_sha256=engine.model_sha256,
        architecture=engine.card.architecture,
        preprocessing=engine.card.preprocessing,
        backend=BackendOptions(),
    )
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(1000, DIMENSION)).astype(np.float32)
    with SearchIndex.create(folder, identity=identity, upkeep=False) as index:
        for start in range(0, size, 10_000):
            count = min(10_000, size - start)
            vectors = centres[generator.integers(0, len(centres), count)] + 0.8 * generator.normal(
                size=(count, DIMENSION)
            )
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            index.add(
                [
                    NewItem(id=f"item-{start + row}", vector=vector, label=f"label-{(start + row) % 100}")
                    for row, vector in enumerate(vectors.astype(np.float32))
                ]
            )
        index.settle()
        for path in sorted(images.glob("*.jpg")):
            vector = engine.embed(engine.prepare(path.read_bytes())[None])[0]
            index.add([NewItem(id=path.stem, vector=vector, label="sent")])
    return folder


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What all sections share."""

    bundle: Path
    images: Path
    index: Path
    size: int

    @property
    def first(self) -> Path:
        """One of the images."""
        return min(self.images.glob("*.jpg"))


def prepare(folder: Path, size: int) -> Scene:
    """Make what is served, unless it is there from another run."""
    bundle, images, index = folder / "resnet18", folder / "images", folder / f"index-{size}"
    if not (bundle / "card.json").exists():
        write_bundle(bundle)
    write_images(images)
    if not index.exists():
        print(f"indexing {size} items …", flush=True)
        write_index(index, bundle, images, size)
    return Scene(bundle=bundle, images=images, index=index, size=size)


# ---------------------------------------------------------------------- processes


@dataclass(frozen=True, kw_only=True, eq=False)
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int
    said: str

    def connect(self) -> HTTPConnection:
        """Open a connection."""
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def served(scene: Scene, *arguments: str) -> Iterator[Server]:
    """Serve the index until the block ends."""
    process = subprocess.Popen(
        [
            sys.executable,
            "serving/app.py",
            f"--model=resnet:{scene.bundle}={scene.index}",
            "--port=0",
            "--rate=0",
            f"--batch={BATCH}",
            *arguments,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = ""
    try:
        assert process.stdout is not None
        while not (match := re.search(r"http://127\.0\.0\.1:(\d+)/v1/", said)):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the server ended: {said}")
            said += line
        server = Server(process=process, port=int(match[1]), said=said)
        _wait_until_ready(server)
        yield server
        process.terminate()
        if (status := process.wait(60)) != 0:
            raise SystemExit(f"the server ended with the status {status}")
    finally:
        process.kill()


def _wait_until_ready(server: Server) -> None:
    while True:
        try:
            connection = server.connect()
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except ConnectionError:
            pass
        time.sleep(0.05)


class Plain:
    """A process of `benchmarks/plain_serving.py`."""

    def __init__(self, kind: str, bundle: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks/plain_serving.py"), kind, str(bundle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, **task: Any) -> dict[str, float]:
        """Have a task done; gives seconds by part."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        told: dict[str, float] = json.loads(self._process.stdout.readline())
        return told

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@contextmanager
def plain(scene: Scene, *kinds: str) -> Iterator[dict[str, Plain]]:
    """Run plain processes until the block ends."""
    processes = {kind: Plain(kind, scene.bundle) for kind in kinds}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.end()


# ---------------------------------------------------------------------- sections


def query(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    """One query at a time, end to end, turn by turn with the bare network and with PyTorch."""
    data = scene.first.read_bytes()
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ("onnxruntime", "blocking", "pytorch")}
    over_http: list[float] = []
    stages: list[dict[str, float]] = []
    with served(scene, "--no-page") as server, plain(scene, *turns) as bare:
        asking = Asking(server, data)
        for turn in range(options.queries + 10):
            timed: dict[str, Callable[[], dict[str, float]]] = {
                name: lambda process=process: process.do(do="query", image=str(scene.first))  # type: ignore[misc]
                for name, process in bare.items()
            }
            for name in sorted(timed, key=lambda name: hash((name, turn))):
                time.sleep(_PAUSE_S)
                took = timed[name]()
                if turn >= 10:
                    turns[name].append(took)
            time.sleep(_PAUSE_S)
            took_s, told = asking()
            if turn >= 10:
                over_http.append(took_s)
                stages.append(told)
        said = server.said
    # The bare network at its best: with threads that spin between operations, or that sleep.
    best = min(("onnxruntime", "blocking"), key=lambda name: _median(turns[name], "embed"))
    embed, decode, ready = (_median(turns[best], part) for part in ("embed", "decode", "prepare"))
    p50 = statistics.median(over_http)
    return {
        "queries": len(over_http),
        "served": said.splitlines()[0],
        "over_http_ms": _quantiles(over_http),
        "stages_ms": {name: round(statistics.median(one[name] for one in stages), 3) for name in stages[0]},
        "bare_session": best,
        "bare_ms": {
            "inference": _ms(embed),
            "pillow_decode": _ms(decode),
            "resize_and_scale": _ms(ready),
            "inference_and_decode": _ms(embed + decode),
        },
        "bare_other_session_inference_ms": {
            name: _ms(_median(turns[name], "embed")) for name in ("onnxruntime", "blocking")
        },
        "pytorch_eager_ms": {part: _ms(_median(turns["pytorch"], part)) for part in ("decode", "prepare", "embed")},
        "p50_over_inference_and_decode": round(p50 / (embed + decode), 3),
        "p50_over_inference_decode_and_resize": round(p50 / (embed + decode + ready), 3),
        "limit": 1.25,
    }


def clients(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    """64 clients at once, against the bare network on batches of its best size, before, between and after."""
    rates: dict[int, list[float]] = {size: [] for size in (8, 16, BATCH, 64)}
    loads = []
    with plain(scene, "onnxruntime") as bare:
        for size in rates:
            bare["onnxruntime"].do(do="batch", size=size)  # which allocates
        for turn in range(3):
            for size, found in rates.items():
                until = time.monotonic() + options.seconds / 8
                while not found or time.monotonic() < until:
                    found.append(size / bare["onnxruntime"].do(do="batch", size=size)["embed"])
            if turn < 2:
                with served(scene, "--no-page") as server:
                    loads.append(_load(scene, server, clients=64, seconds=options.seconds))
                    sizes = [_metric(server, f"hardrank_batch_images_{part}") for part in ("sum", "count")]
    medians = {size: statistics.median(found) for size, found in rates.items()}
    best = max(medians, key=medians.__getitem__)
    full_batch_s = BATCH / medians[BATCH]
    rate = statistics.median(load["per_second"] for load in loads)
    p99_ms = max(load["p99_ms"] for load in loads)
    with served(scene, "--no-page", "--pending=32") as server:
        overload = _load(scene, server, clients=64, seconds=max(3, options.seconds / 4))
    return {
        "clients": 64,
        "loads": loads,
        "mean_batch": round(sizes[0] / sizes[1], 1),
        "bare_images_per_second": {str(size): round(value, 1) for size, value in medians.items()},
        "bare_best": {"batch": best, "images_per_second": round(medians[best], 1)},
        "images_per_second": round(rate, 1),
        "throughput_over_bare": round(rate / medians[best], 3),
        "throughput_limit": 0.85,
        "full_batch_ms": _ms(full_batch_s),
        "p99_ms": round(p99_ms, 1),
        "p99_over_full_batch": round(p99_ms / 1000 / full_batch_s, 2),
        "p99_limit": 4,
        "lost": sum(load["lost"] for load in loads),
        "wrong": sum(load["wrong"] for load in loads),
        "overload_of_32_places": overload,
    }


def soak(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    """Minutes of mixed load with additions and deletions; memory at the end against memory after the warm-up."""
    seconds = 60 * options.minutes
    warm_up = min(90.0, seconds / 4)
    memory: list[tuple[float, int]] = []
    counts: dict[str, int] = {}
    wrong: list[str] = []
    with served(scene, "--no-page", "--pending=64") as server:
        end = threading.Event()
        threads = [
            threading.Thread(target=_repeat, args=(work, server, scene, number, end, counts, wrong))
            for number, work in enumerate((_search, _search, _search, _batch, _by_id, _change, _change, _damaged))
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while (now := time.monotonic() - began) < seconds:
            memory.append((now, server.memory))
            time.sleep(1.0)
        end.set()
        for thread in threads:
            thread.join()
        left = _get(server, "/v1/stats")["models"]["resnet"]["index"]["size"]
    tenth = seconds / 10
    before = statistics.median(size for at, size in memory if warm_up <= at < warm_up + tenth)
    after = statistics.median(size for at, size in memory if at >= seconds - tenth)
    return {
        "minutes": options.minutes,
        "requests": counts,
        "wrong": wrong[:20],
        "items_before_and_after": [scene.size + IMAGES, left],
        "memory_mib": {
            "after_warm_up": round(before / 2**20, 1),
            "at_the_end": round(after / 2**20, 1),
            "peak": round(max(size for _, size in memory) / 2**20, 1),
            "by_minute": [
                round(statistics.median(size for at, size in memory if 60 * m <= at < 60 * (m + 1)) / 2**20, 1)
                for m in range(int(seconds // 60))
            ],
        },
        "growth": round(after / before - 1, 4),
        "limit": 0.05,
    }


SECTIONS: Final[dict[str, Callable[[Scene, argparse.Namespace], dict[str, Any]]]] = {
    "query": query,
    "clients": clients,
    "soak": soak,
}


# ---------------------------------------------------------------------- requests


class Asking:
    """A caller with an open connection and a request made beforehand: what is timed is the server."""

    def __init__(self, server: Server, data: bytes) -> None:
        self._connection = socket.create_connection(("127.0.0.1", server.port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = (
            b"POST /v1/search?k=10 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
        )

    def __call__(self) -> tuple[float, dict[str, float]]:
        """Ask once: seconds from the first byte sent to the JSON parsed, and what the server says of its stages."""
        began = time.perf_counter()
        self._connection.sendall(self._request)
        received = body = b""
        length: int | None = None
        while length is None or len(body) < length:
            received += self._connection.recv(2**18)
            head, found, body = received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) if found else None
        answer = json.loads(body)
        took = time.perf_counter() - began
        if "models" not in answer:
            raise SystemExit(f"the server answered {answer}")
        told = re.findall(rb"(\w+);dur=([\d.]+)", head)
        return took, {name.decode(): float(value) for name, value in told}


def _load(scene: Scene, server: Server, *, clients: int, seconds: float) -> dict[str, Any]:
    task = {
        "port": server.port,
        "clients": clients,
        "seconds": seconds,
        "warm_up": 3.0,
        "images": str(scene.images),
    }
    told = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/load.py"), json.dumps(task)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(told.stdout)
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}


def _metric(server: Server, name: str) -> float:
    connection = server.connect()
    connection.request("GET", "/metrics")
    match = re.search(rf"^{name} (\S+)", connection.getresponse().read().decode(), re.MULTILINE)
    assert match is not None
    return float(match[1])


def _get(server: Server, address: str) -> dict[str, Any]:
    connection = server.connect()
    connection.request("GET", address)
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    return found


Work = Callable[[HTTPConnection, Scene, int, int], tuple[str, int, bool]]


def _repeat(
    work: Work,
    server: Server,
    scene: Scene,
    number: int,
    end: threading.Event,
    counts: dict[str, int],
    wrong: list[str],
) -> None:
    """Do the same work again and again, as one of several callers."""
    connection = server.connect()
    turn = 0
    while not end.is_set():
        name, status, right = work(connection, scene, number, turn)
        key = f"{name} {status}"
        counts[key] = counts.get(key, 0) + 1
        if not right:
            wrong.append(f"{key}, caller {number}, turn {turn}")
        turn += 1
        time.sleep(0.02)


def _send(
    connection: HTTPConnection, method: str, address: str, body: bytes = b"", kind: str = "image/jpeg"
) -> tuple[int, bytes]:
    connection.request(method, address, body=body, headers={"Content-Type": kind})
    answer = connection.getresponse()
    return answer.status, answer.read()


def _search(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    name = f"sent-{(number + 7 * turn) % IMAGES:02}"
    label = "&label=sent" if turn % 5 == 0 else ""
    status, body = _send(connection, "POST", f"/v1/search?k=10{label}", (scene.images / f"{name}.jpg").read_bytes())
    return "search", status, status == 429 or json.loads(body)["models"]["resnet"]["matches"][0]["id"] == name


def _batch(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    names = [f"sent-{(turn + step) % IMAGES:02}" for step in range(8)]
    files = [("images", (scene.images / f"{name}.jpg").read_bytes()) for name in names]
    status, body = _send(connection, "POST", "/v1/search/batch?k=3", _form(files), _FORM)
    right = (
        status == 429
        or [one["answer"]["models"]["resnet"]["matches"][0]["id"] for one in json.loads(body)["answers"]] == names
    )
    return "batch", status, right


def _by_id(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    name = f"item-{17 * turn % scene.size}"
    status, body = _send(connection, "GET", f"/v1/search?id={name}&k=5")
    right = status == 429 or name not in [match["id"] for match in json.loads(body)["models"]["resnet"]["matches"]]
    return "by id", status, right


def _change(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    """Add an image, find it, delete it, find it no more."""
    name, data = f"new-{number}-{turn}", photograph(1000 + 1000 * number + turn % 1000)
    added, _ = _send(
        connection, "PUT", f"/v1/items/{name}", _form([("image", data), ("label", b"new"), ("metadata", b"{}")]), _FORM
    )
    if added != 201:
        return "change", added, added == 429
    status, body = _send(connection, "POST", "/v1/search?k=1", data)
    found = status == 429 or json.loads(body)["models"]["resnet"]["matches"][0]["id"] == name
    deleted, _ = _send(connection, "DELETE", f"/v1/items/{name}")
    while deleted == 429:
        time.sleep(0.2)
        deleted, _ = _send(connection, "DELETE", f"/v1/items/{name}")
    gone, _ = _send(connection, "GET", f"/v1/items/{name}")
    return "change", deleted, found and (deleted, gone) == (204, 404)


def _damaged(connection: HTTPConnection, scene: Scene, number: int, turn: int) -> tuple[str, int, bool]:
    data = bytearray(scene.first.read_bytes())
    del data[100 + turn % (len(data) - 200) :]
    status, _ = _send(connection, "POST", "/v1/search", bytes(data))
    return "damaged", status, status in {200, 422, 429}


_FORM: Final = "multipart/form-data; boundary=frontier"


def _form(fields: list[tuple[str, bytes]]) -> bytes:
    parts = (
        b'--frontier\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + content + b"\r\n"
        for name, content in fields
    )
    return b"".join(parts) + b"--frontier--\r\n"


# ---------------------------------------------------------------------- figures


def _median(turns: list[dict[str, float]], part: str) -> float:
    return statistics.median(turn[part] for turn in turns)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": _ms(cuts[49]), "p90": _ms(cuts[89]), "p99": _ms(cuts[98])}


def main() -> None:
    """Run the sections that were asked, and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which to run (default: all)")
    parser.add_argument("--size", type=int, default=100_000, help="items of the gallery (default 100 000)")
    parser.add_argument("--queries", type=int, default=200, help="query: turns (default 200)")
    parser.add_argument("--seconds", type=float, default=20, help="clients: seconds of each load (default 20)")
    parser.add_argument("--minutes", type=float, default=10, help="soak: minutes (default 10)")
    parser.add_argument("--folder", type=Path, help="where to keep what is served for another run (default: nowhere)")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scene = prepare(options.folder or Path(scratch), options.size)
        machine = hardware(torch.device("cpu"), low_precision=False)
        torch.set_num_threads(1)  # this process only waits
        found = json.loads(options.result.read_text(encoding="utf-8")) if options.result.exists() else {}
        for name in options.sections or SECTIONS:
            section = SECTIONS[name](scene, options)
            found[name] = {
                "command": f"python benchmarks/serving.py {name}",
                "what": (SECTIONS[name].__doc__ or "").strip(),
                "gallery": [scene.size, DIMENSION],
                **section,
                "hardware": machine,
                "versions": versions(),
            }
            print(json.dumps(section, indent=2), flush=True)
            write_json(options.result, found)


if __name__ == "__main__":
    main()
