"""Where runs, bundles and drawn images land unless told otherwise."""

from pathlib import Path
from typing import Final

_ABOVE: Final = Path(__file__).resolve().parents[1]
"""The folder that the packages lie in."""


def home(above: Path = _ABOVE) -> Path:
    """Give `above` when it is the repository; else (installed from a wheel) the working directory."""
    return above if (above / "pyproject.toml").is_file() else Path.cwd()
