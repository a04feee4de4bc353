"""Models and galleries shared by the tests of the audit app."""

import functools
import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit import config
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from hardrank.audit_app.gallery.served import ServedGallery
from tests.audit_app.stage import serve_galleries, write_gallery, write_zoo

# What all installed packages say of themselves is read once, and not a second for every page that is opened.
_packages_with_components = functools.cache(manifest_scanner.scan_component_manifests)


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles, tiny-benign and tiny-robust: 32 px in, 16 coordinates out."""
    return write_zoo(tmp_path_factory.mktemp("tiny-zoo"))


@pytest.fixture(scope="session")
def gratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight classes of eight pictures."""
    return write_gallery(tmp_path_factory.mktemp("pictures") / "gratings")


@pytest.fixture(scope="session")
def served(tiny_zoo: list[Path], gratings: Path) -> list[ServedGallery]:
    """The gratings as the two bundles serve them."""
    return serve_galleries(tiny_zoo, gratings)


@pytest.fixture(scope="session")
def few_gratings(gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of each of the eight classes, for pages that need no more."""
    folder = tmp_path_factory.mktemp("few") / "gratings"
    for path in sorted(gratings.glob("*/[0-2].png")):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


@pytest.fixture
def app(
    tiny_zoo: list[Path], few_gratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """The app as it is started on this machine; what it gives says other arguments for the command line."""

    def tell(*arguments: str) -> None:
        own = ["--zoo", str(tiny_zoo[0].parent), "--gallery", str(few_gratings), "--audits", str(tmp_path / "audits")]
        monkeypatch.setattr(sys, "argv", ["app.py", *own, *arguments])

    kept = {name: config.get_option(name) for name in ("server.address", "browser.gatherUsageStats")}
    monkeypatch.setattr(manifest_scanner, "scan_component_manifests", _packages_with_components)
    # Streamlit collects garbage after each run of a page: seconds, where all that the tests have loaded is looked at.
    gc.freeze()
    config.set_option("server.address", "127.0.0.1")
    config.set_option("browser.gatherUsageStats", False)
    tell()
    AppTest.from_function(_forget).run()
    yield tell
    for name, value in kept.items():
        config.set_option(name, value)


def _forget() -> None:
    """Drop the attack of the previous test: to Streamlit, all tests are one visitor."""
    from hardrank.audit_app.web.resources import session

    session().drop()
