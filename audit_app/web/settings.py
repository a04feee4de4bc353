"""What the app is told on its command line: `streamlit run audit_app/app.py -- --zoo DIR --gallery PLACE`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hardrank.audit_app.errors import AuditError
from hardrank.models.home import home

ROOT = home()
"""The repository, or the working directory where hardrank was installed from a wheel."""


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """Where the app looks, and how much it does at once."""

    zoo: Path = ROOT / "models" / "zoo"
    """Folder of bundles to choose from."""
    gallery: tuple[str, ...] = ()
    """What galleries to begin with; none: the test images of the first model's run."""
    audits: Path = ROOT / "runs" / "audits"
    """Folder of audits, past and under way."""
    attacks: int = 2
    """Live attacks at once; others wait."""
    open: bool = False
    """Whether addresses other than the loopback may be listened on: in a container alone."""


class _Parser(argparse.ArgumentParser):
    """Says mistakes as an error that a page can show."""

    def error(self, message: str) -> NoReturn:
        raise AuditError(f"{message}; after `--` the app understands --zoo, --gallery, --audits and --attacks")


def read_settings(arguments: Sequence[str]) -> AppSettings:
    """Read the arguments after `--`; raises `AuditError` for others."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_settings(parser)
    parser.add_argument("--open", action="store_true")
    given = parser.parse_args(list(arguments))
    if given.attacks < 1:
        raise AuditError(f"--attacks is {given.attacks}; give 1 or more")
    return AppSettings(
        zoo=given.zoo, gallery=tuple(given.gallery), audits=given.audits, attacks=given.attacks, open=given.open
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Let a command line say where the app looks, and how much it does at once."""
    parser.add_argument("--zoo", type=Path, default=AppSettings.zoo, help="folder of bundles (default: %(default)s)")
    parser.add_argument(
        "--gallery", nargs="+", default=(), help="what galleries to begin with (default: those of the models' runs)"
    )
    parser.add_argument("--audits", type=Path, default=AppSettings.audits, help="folder of audits")
    parser.add_argument("--attacks", type=int, default=AppSettings.attacks, help="live attacks at once")
