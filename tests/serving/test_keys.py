"""The command that makes, lists and removes API keys."""

from pathlib import Path

import pytest

from hardrank.serving import keys
from hardrank.serving.api.auth import Keyring, KeyRole, read_keys


def test_add_list_and_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "keys.json")
    assert keys.main(["add", path, "anna"]) == 0
    key = capsys.readouterr().out.split()[0]
    assert keys.main(["add", path, "bert", "--role", "write"]) == 0
    other = capsys.readouterr().out.split()[0]
    ring = Keyring(read_keys(Path(path)))
    assert ring.caller(key, "").role is KeyRole.READ
    assert ring.caller(other, "").role is KeyRole.WRITE
    assert keys.main(["list", path]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["anna", "read"], ["bert", "write"]]
    assert keys.main(["add", path, "anna"]) == 2
    assert "anna" in capsys.readouterr().err
    assert keys.main(["remove", path, "anna"]) == 0
    assert keys.main(["remove", path, "anna"]) == 2
    assert [entry.name for entry in read_keys(Path(path))] == ["bert"]
    assert keys.main(["add", path, "x" * 65]) == 2


def test_a_missing_key_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list"], ["remove", "anna"]):
        assert keys.main([arguments[0], str(tmp_path / "absent.json"), *arguments[1:]]) == 2
        assert "absent.json" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["add"], ["add", "keys.json", "anna", "--role", "no"], ["show", "k.json"]])
def test_invalid_arguments_exit_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        keys.main(arguments)
    assert caught.value.code == 2


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        keys.main(["--help"])
    assert not caught.value.code
    assert "--api-keys" in capsys.readouterr().out
