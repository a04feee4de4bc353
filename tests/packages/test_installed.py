"""The installed package works from any folder: every command, on the data files that the wheel brings.

The wheel is unpacked as an installation lays it out; the libraries are those of this environment, or, with
HARDRANK_CLEAN_INSTALL=1, fetched into an environment of their own.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.packages.wheel import ROOT, build_wheel
from tests.trainer.tiny import write_images

_COMMANDS = ("train", "study", "index", "serve", "keys", "audit", "leaderboard", "app", "replay")
_SMALL = (
    "--architecture.dimension 8 --warmup.epochs 1 --warmup.batch-size 8 --robust.epochs 1 --robust.pairs 4 "
    "--evaluation.attacked 2 --evaluation.steps 1"
)
_AUDIT = (
    "hardrank audit --models models/zoo/own-robust --run runs/own --out audits/own --attacks ES --attacked 2 --steps 1"
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment's programs, in which the wheel is installed and the clone is not."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = build_wheel(folder)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install: list[str | Path] = [folder / "venv" / "bin" / "pip", "install", "--quiet"]
    if os.environ.get("HARDRANK_CLEAN_INSTALL"):
        subprocess.run([*install, "-c", ROOT / ".ci" / "lock.txt", wheel], check=True)
    else:
        site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
        (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
        subprocess.run([*install, "--no-index", "--ignore-installed", "--no-deps", wheel], check=True)
    return folder / "venv" / "bin"


def _run(programs: Path, folder: Path, command: str) -> str:
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command.split(), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_says_what_it_can(programs: Path, tmp_path: Path) -> None:
    for name in _COMMANDS:
        assert f"usage: hardrank {name} " in _run(programs, tmp_path, f"hardrank {name} --help")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_way_from_images_to_a_report(programs: Path, tmp_path: Path) -> None:
    found = "import hardrank; print(hardrank.__file__)"
    where = subprocess.run([programs / "python", "-c", found], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(programs.parent) in where.stdout
    write_images(tmp_path / "photos")
    _run(programs, tmp_path, f"hardrank train folder --data.root photos --name own {_SMALL}")
    _run(programs, tmp_path, "hardrank index --model models/zoo/own-robust --from-run runs/own --out indexes/own")
    assert "own-robust" in _run(programs, tmp_path, "hardrank index --out indexes/own --info")
    _run(programs, tmp_path, _AUDIT)
    assert "<html" in (tmp_path / "audits" / "own" / "report.html").read_text(encoding="utf-8")
