"""Where runs, bundles and the demo data set are written by default, and what the commands are called."""

import sys
from pathlib import Path
from typing import Final

_ABOVE: Final = Path(__file__).resolve().parents[1]
"""The folder that contains the packages."""

PROGRAM: Final = "hardrank"
SCRIPTS: Final = {
    "train": "trainer/run.py",
    "study": "trainer/study.py",
    "index": "serving/build.py",
    "serve": "serving/app.py",
    "keys": "serving/keys.py",
    "scan": "serving/scan.py",
    "audit": "audit_app/run.py",
    "leaderboard": "audit_app/leaderboard.py",
    "probe": "audit_app/probe.py",
    "app": "audit_app/start.py",
    "replay": "audit_app/replay.py",
}
"""Command of the program `hardrank` → the script in a clone that does the same."""


def home(above: Path = _ABOVE) -> Path:
    """Return `above` if it is the repository, else (installed from a wheel) the working directory."""
    return above if (above / "pyproject.toml").is_file() else Path.cwd()


def typed(command: str) -> str:
    """Return how the user calls `command`, a key of `SCRIPTS`: `hardrank COMMAND`, or `python SCRIPT` in a clone."""
    if Path(sys.argv[0]).name in {PROGRAM, f"{PROGRAM}.exe"}:
        return f"{PROGRAM} {command}"
    return f"python {SCRIPTS[command]}"
