"""The commands in the documentation exist: programs are known, and their `--help` lists the options that are shown."""

import re
import runpy
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Final

import pytest

from hardrank.cli import COMMANDS
from hardrank.models.home import SCRIPTS
from hardrank.trainer.runtime.launch import ROOT

PAGES: Final = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TOOLS: Final = frozenset(
    {
        "curl",
        "docker",
        "export",
        "git",
        "hf",
        "lint-imports",
        "cp",
        "mkdir",
        "mkdocs",
        "mypy",
        "pip",
        "pytest",
        "python3",
        "ruff",
        "source",
        "streamlit",
        "sudo",
    }
)
"""Programs of others that shell blocks may use."""
WITH_SUBCOMMANDS: Final = frozenset(("keys", "serving/keys.py", "benchmarks/serving.py"))


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the shell blocks of a page, and of hardrank's commands in its text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(?:bash|sh|shell|console)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = re.findall(r"`((?:hardrank|python \w+/\w+\.py)(?: [^`]*)?)`", prose)
    parts = [part for line in [*lines, *inline] for part in line.split("&&")]
    return [words for words in (shlex.split(part, comments=True) for part in parts) if words]


def program(words: list[str]) -> tuple[str, ...] | None:
    """The words that name one of our programs, with its subcommand; None for the program of somebody else."""
    named = words[:3] if words[1:] and words[1] in WITH_SUBCOMMANDS else words[:2]
    if words[0] == "python" or (words[0] == "hardrank" and words[1:] and re.match(r"[a-z]+$", words[1])):
        return tuple(named)
    return None


def is_known(words: list[str]) -> bool:
    named = program(words)
    if named is None:
        return words[0] in TOOLS or words[0] == "hardrank"
    return named[1] in COMMANDS if named[0] == "hardrank" else (ROOT / named[1]).is_file()


def options() -> Mapping[tuple[str, ...], set[str]]:
    """The options that the pages use, by program."""
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for words in (words for page in PAGES for words in commands(page) if is_known(words)):
        if named := program(words):
            found[named] |= {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
    return found


def printed_help(named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `--help` prints. Programs run in this process, which spares importing their libraries again."""
    program, target, *subcommand = named
    by_script = {script: command for command, script in SCRIPTS.items()}
    command = target if program == "hardrank" else by_script.get(target)
    with redirect_stdout(StringIO()) as printed:
        try:
            if command is None:
                monkeypatch.setattr(sys, "argv", [target, *subcommand, "--help"])
                runpy.run_path(str(ROOT / target), run_name="__main__")
                status = None
            else:
                status = import_module(COMMANDS[command].module).main([*subcommand, "--help"])
        except SystemExit as error:
            status = error.code
    assert not status
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_known(page: Path) -> None:
    assert not [words for words in commands(page) if not is_known(words)]


@pytest.mark.parametrize("named", sorted(options()), ids=" ".join)
def test_help_works_and_lists_the_options(named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    listed = set(re.findall(r"--[\w.-]+", printed_help(named, monkeypatch))) | {"--help"}
    assert options()[named] <= listed
