"""What a command prints, and its exit status, instead of a traceback."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Final, ParamSpec

from rich.console import Console
from rich.text import Text

from hardrank.models.errors import HardrankError

FAILED: Final = 2
"""Exit status of an error."""
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C."""
_P = ParamSpec("_P")


def report_errors(
    *, interrupted: str = "", remark: str = "", statuses: Mapping[type[Exception], int] | None = None
) -> Callable[[Callable[_P, int]], Callable[_P, int]]:
    """Decorate the `main` of a command: an error that a user can fix becomes a line on standard error.

    These are `HardrankError` and, as a full disk raises it, `OSError`.

    Args:
        interrupted: What is said after Ctrl-C, if anything.
        remark: What is added to an `OSError`, whose message names the file.
        statuses: Exit statuses by class of error, where they are not 2.
    """

    def decorate(main: Callable[_P, int]) -> Callable[_P, int]:
        @wraps(main)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except (HardrankError, OSError) as error:
                said = f"{error}; {remark}" if remark and isinstance(error, OSError) else str(error)
                Console(stderr=True).print(Text.assemble(("error", "bold red"), f": {said}"), soft_wrap=True)
                return next((status for kind, status in (statuses or {}).items() if isinstance(error, kind)), FAILED)
            except KeyboardInterrupt:
                if interrupted:
                    Console(stderr=True).print(Text(interrupted), soft_wrap=True)
                return INTERRUPTED

        return guarded

    return decorate
