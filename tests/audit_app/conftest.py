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

from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.gallery.served import ServedGallery
from tests.audit_app.galleries import serve_galleries
from tests.audit_app.onnx_graphs import without_gradients
from tests.serving.bundles import write_bundle
from tests.trainer.tiny import write_images
from tests.waiting import PATIENCE_S

# Scanning the installed packages takes a second, so it is done once and not for every page.
_packages_with_components = functools.cache(manifest_scanner.scan_component_manifests)


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles, tiny-benign and tiny-robust: 32 px in, 16 coordinates out."""
    root = tmp_path_factory.mktemp("tiny-zoo")
    return [write_bundle(root / "tiny-benign", seed=0), write_bundle(root / "tiny-robust", seed=1)]


@pytest.fixture(scope="session")
def gratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight classes with eight images each."""
    return write_images(tmp_path_factory.mktemp("pictures") / "gratings")


@pytest.fixture(scope="session")
def served(tiny_zoo: list[Path], gratings: Path) -> list[ServedGallery]:
    """The gratings as the two bundles serve them."""
    return serve_galleries(tiny_zoo, gratings)


@pytest.fixture(scope="session")
def embedded(served: list[ServedGallery]) -> EmbeddedGallery:
    """The gratings as tiny-benign embeds them."""
    return served[0].embedded


@pytest.fixture(scope="session")
def stranger(tiny_zoo: list[Path], gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedGallery:
    """The gratings as the ONNX file of tiny-benign serves them, without its bundle and without gradients."""
    file = without_gradients(tiny_zoo[0] / "model.onnx", tmp_path_factory.mktemp("onnx") / "stranger.onnx")
    return serve_galleries([file], gratings, resize=36)[0]


@pytest.fixture(scope="session")
def few_gratings(gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of each of the eight classes."""
    folder = tmp_path_factory.mktemp("few") / "gratings"
    for path in sorted(gratings.glob("*/[0-2].png")):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


@pytest.fixture
def app(
    tiny_zoo: list[Path], few_gratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """The app with its usual arguments; call the value to add others."""

    def tell(*arguments: str) -> None:
        own = ["--zoo", str(tiny_zoo[0].parent), "--gallery", str(few_gratings), "--audits", str(tmp_path / "audits")]
        monkeypatch.setattr(sys, "argv", ["app.py", *own, *arguments])

    kept = {name: config.get_option(name) for name in ("server.address", "browser.gatherUsageStats")}
    monkeypatch.setattr(manifest_scanner, "scan_component_manifests", _packages_with_components)
    # Streamlit collects garbage after each run of a page, which takes seconds with everything that tests have loaded.
    gc.freeze()
    config.set_option("server.address", "127.0.0.1")
    config.set_option("browser.gatherUsageStats", False)
    tell()
    AppTest.from_function(_forget, default_timeout=PATIENCE_S).run()
    yield tell
    for name, value in kept.items():
        config.set_option(name, value)


def _forget() -> None:
    """Drop the attack of the previous test: to Streamlit, all tests are one visitor."""
    from hardrank.audit_app.web.resources import session

    session().drop()
