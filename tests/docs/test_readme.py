"""The commands of the README run in their order, in a copy of the project with a virtual environment of its own.

Slow commands get options that make them small. HARDRANK_README=full runs them unchanged.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from hardrank.trainer.runtime.launch import ROOT
from tests.waiting import PATIENCE_S

README = (ROOT / "README.md").read_text(encoding="utf-8")
_FULL = os.environ.get("HARDRANK_README") == "full"
_FEW_ATTACKS = "--evaluation.attacked 4 --evaluation.steps 2 --evaluation.strong-images 1"
_SMALL_RUN = f"--warmup.epochs 2 --robust.epochs 1 {_FEW_ATTACKS}"
# The warm-up of this recipe is a number of updates, which takes precedence over epochs.
_SMALL_FOLDER = (
    "--warmup.updates 2 --warmup.batch-size 8 --benign.pairs 4 --robust-stages.0.updates 1 --robust-stages.0.pairs 4 "
    "--robust.updates 1 --robust.pairs 4"
)
_SMALL_OPTIONS = {
    "pip install -e '.[test]'": "--no-deps",
    "hardrank train": _SMALL_RUN,
    "hardrank train folder --data.root DIR": f"{_SMALL_FOLDER} {_FEW_ATTACKS}",
    "hardrank audit": "--attacked 4 --steps 2",
    "python benchmarks/serving.py query": "--size 2000 --queries 3 --result query.json",
    "python benchmarks/serving.py clients": "--size 2000 --seconds 6 --result clients.json",
    "python benchmarks/serving.py soak": "--size 2000 --minutes 0.2 --result soak.json",
    "python benchmarks/index_million.py": "--count 5000 --queries 20 --out million.json",
    "python benchmarks/index_build.py": "--images 8 --rounds 1 --out build.json",
    "python benchmarks/live_attack.py": "--rounds 1 --result live.json",
    "python benchmarks/hm_step.py": "--bundle models/zoo/demo-robust --tiny",
    "python benchmarks/attacks.py": (
        "--bundle models/zoo/demo-robust --queries 4 --few 1 --steps 2 --result attacks.json"
    ),
}
"""Slow commands, and the options that make them small."""
_SERVERS = {"hardrank serve": (7860, "/readyz"), "hardrank app": (8501, "/_stcore/health")}
"""Servers: their port, and the path that answers once they are ready."""
_OTHER_CODE = " --authors-code ROBRANK"
"""An option that needs a checkout of another project; without it, the benchmark runs too."""
_NOT_RUN = {
    "pytest": "would run this test",
}
"""Commands in blocks that are not run, and why."""


def blocks() -> list[str]:
    """The commands of the shell blocks, in their order."""
    found = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [line for block in found for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def benchmarks() -> list[str]:
    """The benchmarks that the text names."""
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    return list(dict.fromkeys(re.findall(r"`(python benchmarks/[^`]*)`", text)))


def test_slow_commands_have_small_options() -> None:
    slow = [command for command in blocks() if command.startswith(("hardrank train", "hardrank audit"))]
    assert slow
    assert all(_longest(command) for command in [*slow, *benchmarks()])


def _longest(command: str) -> str | None:
    return max((known for known in _SMALL_OPTIONS if command.startswith(known)), key=len, default=None)


def _server(command: str) -> tuple[int, str] | None:
    return next((where for known, where in _SERVERS.items() if command.startswith(known)), None)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a virtual environment that finds the installed libraries, and with images in DIR."""
    folder = tmp_path_factory.mktemp("clone") / "hardrank"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git repository")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
    # An old setuptools in the new environment would hide the one that builds the package.
    pip = [str(folder / ".venv" / "bin" / "pip"), "uninstall", "-q", "-y", "setuptools"]
    subprocess.run(pip, check=True, capture_output=True)
    site = next((folder / ".venv" / "lib").glob("python*")) / "site-packages"
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    generator = np.random.default_rng(0)
    for label in range(8):
        (folder / "DIR" / f"class-{label}").mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(30 * label, 30 * label + 40, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "DIR" / f"class-{label}" / f"{number}.png")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_command_runs(clone: Path) -> None:
    for port, _ in _SERVERS.values():
        if _in_use(port):
            pytest.skip(f"port {port} is in use")
    for command in (*blocks(), *benchmarks()):
        if command in _NOT_RUN:
            continue
        if server := _server(command):
            with _serving(clone, command, *server):
                _ask(clone, *server)
            continue
        known = _longest(command)
        command = command.removesuffix(_OTHER_CODE)
        _run(clone, f"{command} {_SMALL_OPTIONS[known]}" if known and not _FULL else command)
    for name in ("demo-benign", "demo-robust", "folder-benign", "folder-robust"):
        assert (clone / "models" / "zoo" / name / "README.md").is_file()
    assert (clone / "audits" / "demo" / "report.html").is_file()


def _environment(clone: Path) -> dict[str, str]:
    # PIP_NO_INDEX: `pip install -e .` must find everything that pyproject.toml names installed.
    path = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "VIRTUAL_ENV": str(clone / ".venv"), "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    offline = {} if _FULL else {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    return {**os.environ, **own, **offline}


def _run(clone: Path, command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", command], cwd=clone, env=_environment(clone), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


@contextmanager
def _serving(clone: Path, command: str, port: int, ready: str) -> Iterator[None]:
    process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=clone, env=_environment(clone))
    try:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert process.poll() is None, command
            if _answers(f"http://127.0.0.1:{port}{ready}"):
                break
            time.sleep(0.2)
        else:
            pytest.fail(f"{command} does not answer")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def _ask(clone: Path, port: int, ready: str) -> None:
    assert _answers(f"http://127.0.0.1:{port}/")
    if ready == "/readyz":
        photo = next((clone / "data").glob("demo*/test/*/*.png")).read_bytes()
        query = Request(f"http://127.0.0.1:{port}/v1/search?k=3", photo, {"Content-Type": "image/png"})
        with urlopen(query, timeout=PATIENCE_S) as answer:
            assert b'"benign"' in answer.read()


def _answers(url: str) -> bool:
    try:
        urlopen(url, timeout=60).close()
    except (URLError, OSError):
        return False
    return True


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_all_recipes_are_listed() -> None:
    recipes = {path.stem for path in (ROOT / "trainer" / "recipes").glob("*.yaml")}
    named: Sequence[str] = re.findall(r"`([\w-]+)`", README.partition("| recipe |")[2].partition("\n\n")[0])
    assert recipes <= set(named)
