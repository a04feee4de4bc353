"""The wheel as `pip wheel .` makes it, of a copy of the sources, so that nothing is left among them."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "trainer", "serving", "audit_app")
_BESIDE = ("pyproject.toml", "README.md", "LICENSE")
_MAKE = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def build_wheel(where: Path) -> Path:
    """Build the wheel below `where`, without asking for anything from elsewhere."""
    source, made = where / "source", where / "dist"
    made.mkdir(parents=True)
    for folder in (*PACKAGES, ".ci"):
        ignored = shutil.ignore_patterns("__pycache__", "zoo")
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=ignored)
    for name in _BESIDE:
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", _MAKE, str(made)], cwd=source, check=True, capture_output=True)
    return next(made.glob("*.whl"))
