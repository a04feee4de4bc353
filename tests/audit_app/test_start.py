"""The command that starts the app."""

from pathlib import Path
from typing import Any

import pytest
from streamlit import config
from streamlit.web import cli

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.start import APP, main
from hardrank.audit_app.web.server_check import check_server
from hardrank.audit_app.web.settings import read_settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Streamlit is told."""
    found: list[Any] = []
    monkeypatch.setattr(cli, "main", found.append)
    return found


def test_it_listens_on_the_loopback(started: list[Any]) -> None:
    main([])
    assert started == [["run", str(APP), "--server.address", "127.0.0.1", "--server.port", "8501", "--"]]
    assert (APP.parent / ".streamlit" / "config.toml").is_file()


def test_what_the_app_is_told_reaches_it(started: list[Any]) -> None:
    main(["--port=9000", "--zoo", "bundles", "--host", "localhost", "--gallery", "a", "b", "--attacks", "3"])
    command = started[0]
    assert command[2:6] == ["--server.address", "localhost", "--server.port", "9000"]
    told = read_settings(command[command.index("--") + 1 :])
    assert (told.zoo, told.gallery, told.attacks, told.open) == (Path("bundles"), ("a", "b"), 3, False)


def test_other_addresses_are_for_containers_and_warned_of(
    started: list[Any], capsys: pytest.CaptureFixture[str], app: Any
) -> None:
    main(["--host", "0.0.0.0"])
    assert "can run attacks" in capsys.readouterr().err
    command = started[0]
    told = read_settings(command[command.index("--") + 1 :])
    assert told.open
    config.set_option("server.address", "0.0.0.0")
    check_server(others=told.open)
    with pytest.raises(AuditError, match="must not be open to others"):
        check_server()


def test_mistakes_end_it(started: list[Any]) -> None:
    with pytest.raises(SystemExit):
        main(["--colour", "red"])
    assert not started
