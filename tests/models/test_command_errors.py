"""Commands end with a line and an exit status, not with a traceback."""

import errno

import pytest

from hardrank.models.command_errors import report_errors
from hardrank.models.errors import HardrankError


class OtherError(HardrankError):
    pass


class NothingError(HardrankError):
    pass


def _end(error: BaseException | None, capsys: pytest.CaptureFixture[str], **said: str) -> tuple[int, str]:
    """Return the exit status and what is printed when a command raises `error`."""

    @report_errors(statuses={NothingError: 1}, **said)
    def main() -> int:
        if error is not None:
            raise error
        return 7

    return main(), capsys.readouterr().err


def test_the_status_of_the_command_is_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert _end(None, capsys) == (7, "")


def test_errors_are_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    long = "[red]no style[/] " * 20
    assert _end(OtherError(long), capsys, remark="check the disk") == (2, f"error: {long}\n")
    assert _end(NothingError("none"), capsys) == (1, "error: none\n")


def test_errors_of_the_system_are_followed_by_a_remark(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "a.json")
    said = "error: [Errno 28] No space left on device: 'a.json'"
    assert _end(full, capsys) == (2, f"{said}\n")
    assert _end(full, capsys, remark="finished parts are kept") == (2, f"{said}; finished parts are kept\n")


def test_an_interruption_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert _end(KeyboardInterrupt(), capsys) == (130, "")
    assert _end(KeyboardInterrupt(), capsys, interrupted="go on") == (130, "go on\n")


def test_mistakes_of_the_code_stay_visible(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a bug"):
        _end(ValueError("a bug"), capsys)
