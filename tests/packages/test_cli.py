"""The command `hardrank`: it dispatches to the commands, which the scripts in a clone share."""

import importlib
import subprocess
import sys

import pytest

import hardrank
from hardrank.cli import COMMANDS, help_page, main
from hardrank.models.home import SCRIPTS
from tests.packages.wheel import ROOT


def test_each_command_is_a_script_too() -> None:
    assert set(COMMANDS) == set(SCRIPTS)
    for name, command in COMMANDS.items():
        module = importlib.import_module(command.module)
        assert callable(module.main)
        assert ROOT / SCRIPTS[name] == ROOT.joinpath(*command.module.split(".")[1:]).with_suffix(".py")


def test_the_help_page_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.strip() == help_page().strip()
    for name in COMMANDS:
        assert f"hardrank {name} " in help_page() or f"  {name} " in help_page()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hardrank {hardrank.version()}\n"


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trane"]) == 2
    shown = capsys.readouterr().err
    assert "'trane'" in shown
    assert "did you mean train?" in shown
    assert "hardrank --help" in shown
    assert main(["xyz"]) == 2
    shown = capsys.readouterr().err
    assert "did you mean" not in shown
    assert all(name in shown for name in COMMANDS)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the image `serve`, which has no PyTorch."""
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "hardrank.trainer.study", raising=False)
    assert main(["study"]) == 2
    assert "tyro" in capsys.readouterr().err


def test_help_imports_no_library_that_takes_seconds() -> None:
    code = (
        "import sys, hardrank.cli; hardrank.cli.main(['--help']); print(sorted({'torch', 'gradio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_public_names_are_imported_when_used() -> None:
    assert set(hardrank.__all__) == set(dir(hardrank))
    for name in hardrank.__all__:
        assert callable(getattr(hardrank, name)), name
    with pytest.raises(AttributeError, match="no attribute 'srch'"):
        _ = hardrank.srch
