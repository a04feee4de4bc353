"""The images and the compose file: consistent with each other, and (slow) built, entered and asked.

    HARDRANK_BASE_IMAGE=debian:bookworm-slim pytest -m slow tests/packages/test_containers.py

as root, with buildah; the build installs packages over the network.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import yaml

from tests.packages.container import build, enter, mounted
from tests.packages.wheel import ROOT
from tests.serving.bundles import write_bundle
from tests.trainer.tiny import write_images

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docs" / "deploy" / "compose.yaml").read_text(encoding="utf-8")
INDEX = "hardrank index --model models/zoo/tiny-robust --images photos --out indexes/tiny"
TRAIN = (
    "hardrank train folder --data.root photos --name own --architecture.dimension 8 --warmup.epochs 1 "
    "--robust.epochs 1 --evaluation.attacked 2 --evaluation.steps 1"
)
_USER = 10001


def test_the_compose_file_is_one() -> None:
    """Read by an implementation of the Compose Specification, which refuses unknown fields."""
    compose_spec = pytest.importorskip("compose_spec")
    defaults = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE)  # variables as they are when nobody sets them
    plain = yaml.safe_load(defaults)
    del plain["x-hardened"]
    compose = compose_spec.PyCompose.from_yaml(yaml.safe_dump(plain))
    compose.validate()
    assert set(compose.service_names()) == {"serve", "audit", "milvus"}
    with pytest.raises(Exception, match="helthcheck"):
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(plain).replace("healthcheck:", "helthcheck:"))


def test_services_are_hardened_and_published_to_this_machine_alone() -> None:
    services: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
    for name in ("serve", "audit"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["build"]["target"] == name
        assert (ROOT / "docs" / "deploy" / service["build"]["context"]).resolve() == ROOT
        (port,) = service["ports"]
        assert port.startswith("127.0.0.1:")
        assert f"EXPOSE {port.rpartition(':')[2]}\n" in _stage(name)
        assert f"127.0.0.1:{port.rpartition(':')[2]}/" in _stage(name).partition("HEALTHCHECK")[2]
    assert "ports" not in services["milvus"]


def test_images_are_pinned_and_never_run_as_root() -> None:
    for name in ("serve", "audit", "train"):
        assert f"FROM ready AS {name}\n" in DOCKERFILE
    assert f"USER {_USER}" in _stage("ready")
    assert DOCKERFILE.index("ARG BASE_IMAGE=") < DOCKERFILE.index("FROM ")
    lock = re.findall(r"^([\w.-]+)==", (ROOT / ".ci" / "lock.txt").read_text(encoding="utf-8"), re.MULTILINE)
    locked = {name.lower().replace("_", "-") for name in lock}
    for path in (ROOT / ".ci" / "container").glob("*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                assert "==" in line or line.lower().replace("_", "-") in locked, f"{path.name}: {line} is not pinned"


def _stage(name: str) -> str:
    return re.split(r"^FROM .* AS ", DOCKERFILE, flags=re.MULTILINE)[_stage_names().index(name) + 1]


def _stage_names() -> list[str]:
    return re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE)


@pytest.fixture(scope="module")
def base() -> str:
    """The base image to build over."""
    image = os.environ.get("HARDRANK_BASE_IMAGE")
    if not image or not shutil.which("buildah") or os.geteuid() != 0:
        pytest.skip("building images needs root, buildah and HARDRANK_BASE_IMAGE")
    return image


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """What is mounted at /data: a bundle and photographs, of the images' user."""
    data = tmp_path / "data"
    write_bundle(data / "models" / "zoo" / "tiny-robust", seed=0)
    write_images(data / "photos")
    for path in (data, *data.rglob("*")):
        os.chown(path, _USER, _USER)
    for folder in (data, *data.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    return data


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_serve_is_built_entered_and_answers(base: str, volume: Path) -> None:
    port = _free_port()
    with mounted(build("serve", base)) as root:
        site = next((root / "opt" / "hardrank" / "lib").glob("python3*")) / "site-packages"
        assert not (site / "torch").exists()
        assert _in(root, volume, "bash", "-c", "id -u; touch /root-is-written || true").split() == [str(_USER)]
        assert not (root / "root-is-written").exists()
        _in(
            root,
            volume,
            *["hardrank", "index", "--model", "models/zoo/tiny-robust", "--images", "photos", "--out", "indexes/tiny"],
        )
        asked = f"hardrank serve --host 0.0.0.0 --port {port} --model models/zoo/tiny-robust=indexes/tiny"
        with _running(enter(root, volume, *asked.split()), f"http://127.0.0.1:{port}/readyz"):
            photo = (volume / "photos" / "class-3" / "5.png").read_bytes()
            query = Request(f"http://127.0.0.1:{port}/v1/search?k=3", photo, {"Content-Type": "image/png"})
            with urlopen(query, timeout=30) as answer:
                (model,) = json.load(answer)["models"].values()
            assert model["matches"][0]["id"] == "class-3~5.png"
            assert model["matches"][0]["score"] == pytest.approx(1, abs=1e-3)
            _in(root, volume, *_health("serve", port))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_audit_is_built_and_its_page_and_command_work(base: str, volume: Path) -> None:
    port = _free_port()
    with mounted(build("audit", base)) as root:
        asked = f"hardrank app --host 0.0.0.0 --port {port} --zoo models/zoo --gallery photos"
        with _running(enter(root, volume, *asked.split()), f"http://127.0.0.1:{port}/_stcore/health"):
            _in(root, volume, *_health("audit", port))
        asked = (
            "hardrank audit --models models/zoo/tiny-robust --images photos --out audits/tiny --attacks ES --steps 2"
        )
        _in(root, volume, *asked.split())
        assert (volume / "audits" / "tiny" / "report.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_train_is_built_and_trains(base: str, volume: Path) -> None:
    with mounted(build("train", base)) as root:
        _in(root, volume, *TRAIN.split())
        assert (volume / "models" / "zoo" / "own-benign" / "card.json").is_file()


def _in(root: Path, data: Path, *command: str) -> str:
    done = subprocess.run(enter(root, data, *command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _health(target: str, port: int) -> list[str]:
    """The target's own health check, at another port."""
    match = re.search(r"HEALTHCHECK.*?CMD (\[.*?\])\n", _stage(target), re.DOTALL)
    assert match is not None
    command: list[str] = json.loads(match[1])
    return [re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", part) for part in command]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], ready: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(600):
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            try:
                urlopen(ready, timeout=2).close()
                break
            except (URLError, OSError):
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        assert process.wait(60) is not None
        if process.stdout:
            process.stdout.close()
