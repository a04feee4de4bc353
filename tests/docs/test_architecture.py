"""docs/architecture.md shows the code as it is."""

import re

import pytest

from hardrank.cli import COMMANDS
from hardrank.models.home import SCRIPTS
from tests.packages.wheel import PACKAGES, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def _section(package: str) -> str:
    return PAGE.partition(f"\n## {package}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_and_module_is_named(package: str) -> None:
    named = set(re.findall(r"`(\w+)/?`", _section(package)))
    inside = [path for path in (ROOT / package).iterdir() if path.is_dir() or path.suffix == ".py"]
    present = {path.stem for path in inside if not path.name.startswith((".", "__"))}
    assert present <= named | {"errors"}


def test_every_path_exists() -> None:
    paths = re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|benchmarks|docs)/[\w/.-]*)`", PAGE)
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_command_is_named() -> None:
    for name in COMMANDS:
        assert f"`hardrank {name}`" in PAGE
        assert f"python {SCRIPTS[name]}" in PAGE


def test_the_layers_of_the_page_are_those_of_the_contracts() -> None:
    """Folders stand in the order of the import contracts in pyproject.toml."""
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in PACKAGES:
        layers = re.search(rf'containers = \["hardrank.{package}"\]\n.*?layers = \[(.*?)\]', contracts, re.DOTALL)
        assert layers
        ranks = enumerate(re.findall(r'"([^"]*)"', layers[1]))
        place = {name: rank for rank, row in ranks for name in re.findall(r"\w+", row)}
        lines = [line for line in _section(package).splitlines() if line.startswith("| `")]
        rows = [re.findall(r"`(\w+)/?`", line.split("|")[1]) for line in lines]
        order = [min(place[name] for name in row if name in place) for row in rows if set(row) & set(place)]
        assert order == sorted(order), package
