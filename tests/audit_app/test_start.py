"""The command that starts the app."""

import subprocess
import sys
from pathlib import Path

import pytest
from streamlit import config

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.start import APP, main
from hardrank.audit_app.web.server_check import check_server
from hardrank.audit_app.web.settings import AppSettings, read_settings


def settings_of(command: list[str]) -> AppSettings:
    """Read the settings that a command passes to the app."""
    return read_settings(tuple(command[command.index("--") + 1 :]))


def test_it_listens_on_the_loopback() -> None:
    started: list[list[str]] = []
    assert main([], run=started.append) == 0
    ((*server, separator, _, _, _, _, _, _),) = started
    assert server == ["run", str(APP), "--server.address", "127.0.0.1", "--server.port", "8501"]
    assert separator == "--"
    assert settings_of(started[0]) == AppSettings()
    assert (APP.parent / ".streamlit" / "config.toml").is_file()


def test_options_reach_the_app() -> None:
    started: list[list[str]] = []
    options = ["--port=9000", "--zoo", "bundles", "--address", "localhost", "--gallery", "a b", "c", "--attacks", "3"]
    assert main([*options, "--audits", "kept"], run=started.append) == 0
    assert started[0][2:6] == ["--server.address", "localhost", "--server.port", "9000"]
    wanted = AppSettings(zoo=Path("bundles"), gallery=("a b", "c"), audits=Path("kept"), attacks=3)
    assert settings_of(started[0]) == wanted


def test_other_addresses_print_a_warning_and_are_allowed_by_the_app(
    capsys: pytest.CaptureFixture[str], app: object
) -> None:
    started: list[list[str]] = []
    assert main(["--host", "0.0.0.0"], run=started.append) == 0
    assert "0.0.0.0" in capsys.readouterr().err
    settings = settings_of(started[0])
    assert settings.open
    config.set_option("server.address", "0.0.0.0")
    check_server(allow_remote=settings.open)
    with pytest.raises(AuditError, match=r"0\.0\.0\.0"):
        check_server()


def test_the_exit_status_is_that_of_streamlit() -> None:
    def ends(status: int | str | None) -> int:
        def run(_: list[str]) -> None:
            raise SystemExit(status)

        return main([], run=run)

    assert [ends(status) for status in (0, None, 3, "a message")] == [0, 0, 3, 1]

    def interrupted(_: list[str]) -> None:
        raise KeyboardInterrupt

    assert main([], run=interrupted) == 130


@pytest.mark.parametrize("options", [["--color", "red"], ["--port", "high"], ["--attacks", "0"]])
def test_invalid_options_end_with_status_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    started: list[list[str]] = []
    try:
        status: object = main(options, run=started.append)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert options[0] in capsys.readouterr().err
    assert not started


def test_help_shows_options_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--host", "--address", "--port", "--zoo", "--gallery", "--audits", "--attacks", "Examples:"):
        assert option in shown
    assert "--open" not in shown


@pytest.mark.parametrize("options", [["--color", "red"], ["--attacks", "0"], ["--attacks", "many"], ["stray"]])
def test_the_app_reports_invalid_options(options: list[str]) -> None:
    with pytest.raises(AuditError, match=options[-1]):
        read_settings(tuple(options))


def test_the_first_moment_of_a_page_imports_no_slow_library() -> None:
    """A page shows its title and controls before PyTorch is imported."""
    slow = ("torch", "onnxruntime", "faiss", "sklearn")
    code = (
        "import sys; import hardrank.audit_app.web.screen, hardrank.audit_app.web.server_check; "
        f"sys.exit(str([one for one in {slow} if one in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1:] in ([], [""]), done.stderr


def test_the_process_ends_without_tearing_down_what_threads_still_hold() -> None:
    """Libraries report such objects as leaks, which looks like a crash after Ctrl-C."""
    code = (
        "import atexit, sys\n"
        "from hardrank.audit_app import start\n"
        "class Held:\n"
        "    def __del__(self): print('torn down')\n"
        "held = Held()\n"
        "atexit.register(print, 'cleaned up')\n"
        "def interrupted(arguments): raise KeyboardInterrupt\n"
        "start.cli.main = interrupted\n"
        "sys.exit(start.main([], run=start.cli.main))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (130, "cleaned up\n"), ended.stderr
