"""The options of the app, which follow `--`: `streamlit run audit_app/app.py -- --zoo DIR --gallery PLACE`."""

import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final

import tyro

from hardrank.audit_app.errors import AuditError
from hardrank.models.home import home

HOME: Final = home()
"""The repository, or the working directory if hardrank was installed from a wheel."""


ALLOW_REMOTE: Final = "--open"
"""Option that `hardrank app --host` passes to the app; it is not for users."""


AUDITS: Final = HOME / "runs" / "audits"


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """Where the app looks for models and images, and how much it does at once."""

    zoo: Path = HOME / "models" / "zoo"
    """Folder with the bundles to choose from."""
    gallery: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Gallery to start with: an index (or one per model), a run, a folder of images or a CSV. Without it: the test
    images of the first model's run."""
    audits: Path = AUDITS
    """Folder of audits. New audits are written to it. Without it, those in audits are shown as well."""
    attacks: int = 2
    """Number of live attacks that run at once. Others wait in a queue."""
    open: Annotated[bool, tyro.conf.Suppress] = False
    """Whether the server may listen on other addresses than the loopback."""

    @property
    def audit_folders(self) -> tuple[Path, ...]:
        """Folders whose audits are shown: `audits`; by default also where examples of the command write."""
        return (self.audits, Path("audits")) if self.audits == AUDITS else (self.audits,)


def settings() -> AppSettings:
    """Return the command-line options of the app; raises `AuditError` for unknown ones."""
    return read_settings(tuple(sys.argv[1:]))


@lru_cache(maxsize=8)
def read_settings(arguments: tuple[str, ...]) -> AppSettings:
    """Parse the options after `--`; raises `AuditError` for unknown options and bad values."""
    given = [one for one in arguments if one != ALLOW_REMOTE]
    remedy = "use --zoo, --gallery, --audits and --attacks after `--`"
    try:
        settings, unknown = tyro.cli(
            AppSettings, args=given, add_help=False, console_outputs=False, return_unknown_args=True
        )
    except SystemExit as error:
        raise AuditError(f"invalid options of the app: {' '.join(arguments)}; {remedy}") from error
    if unknown:
        raise AuditError(f"unknown options of the app: {' '.join(unknown)}; {remedy}")
    return replace(checked(settings), open=ALLOW_REMOTE in arguments)


def checked(settings: AppSettings) -> AppSettings:
    """Return `settings`; raises `AuditError` for values out of range."""
    if settings.attacks < 1:
        raise AuditError(f"--attacks is {settings.attacks}; it must be 1 or more")
    return settings
