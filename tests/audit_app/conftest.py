"""Models and galleries shared by the tests of the audit app."""

from pathlib import Path

import pytest

from audit_app.served import Served
from tests.audit_app.stage import served_scenes, write_gallery, write_zoo


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles, tiny-benign and tiny-robust: 32 px in, 16 coordinates out."""
    return write_zoo(tmp_path_factory.mktemp("tiny-zoo"))


@pytest.fixture(scope="session")
def gratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight classes of eight pictures."""
    return write_gallery(tmp_path_factory.mktemp("pictures") / "gratings")


@pytest.fixture(scope="session")
def served(tiny_zoo: list[Path], gratings: Path) -> list[Served]:
    """The gratings as the two bundles serve them."""
    return served_scenes(tiny_zoo, gratings)
