"""Where runs, bundles and drawn images land unless told otherwise, and what the commands are called."""

import sys
from pathlib import Path
from typing import Final

_ABOVE: Final = Path(__file__).resolve().parents[1]
"""The folder that the packages lie in."""


def home(above: Path = _ABOVE) -> Path:
    """Give `above` when it is the repository; else (installed from a wheel) the working directory."""
    return above if (above / "pyproject.toml").is_file() else Path.cwd()


def typed(script: str) -> str:
    """Give what a command is called by: `python SCRIPT`, or its name where an installed one was started."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("hardrank-") else f"python {script}"
