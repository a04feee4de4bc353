"""The wheel holds every file that the packages work with, and the commands."""

import tomllib
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path
from zipfile import ZipFile

import pytest

from hardrank.models.home import home, typed
from tests.packages.wheel import PACKAGES, ROOT, build_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    return ZipFile(build_wheel(tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_every_file_of_the_packages(wheel: ZipFile) -> None:
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    relative = (path.relative_to(ROOT) for path in files if not {"__pycache__", "zoo"} & set(path.parts))
    wanted = {Path("hardrank") / path for path in relative} | {
        Path("hardrank") / name for name in ("__init__.py", "__main__.py", "cli.py")
    }
    held = {Path(name) for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_wheel_has_the_commands(wheel: ZipFile) -> None:
    commands = ConfigParser()
    commands.read_string(wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode())
    scripts = dict(commands["console_scripts"])
    assert set(scripts) == {"hardrank"}
    assert scripts == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name, place in scripts.items():
        module = ROOT / ".ci" / "src" / Path(*place.partition(":")[0].split(".")).with_suffix(".py")
        assert f"def {place.partition(':')[2]}(" in module.read_text(encoding="utf-8"), name
    assert entry_points(group="console_scripts")


def test_what_is_made_lands_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert home() == ROOT
    assert home(tmp_path) == tmp_path  # as in site-packages: no pyproject.toml there


def test_help_calls_a_command_by_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed("train") == "python trainer/run.py"
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/hardrank", "train", "--help"])
    assert typed("train") == "hardrank train"
