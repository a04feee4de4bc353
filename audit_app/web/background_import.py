"""Import the slow libraries in a thread, so that a page appears at once and says what it waits for."""

import logging
import threading
from functools import cache
from importlib import import_module
from typing import Final

_logger = logging.getLogger(__name__)

_WEB: Final = "hardrank.audit_app.web"
_MODULES: Final = {
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    f"{_WEB}.live_page": "the attacks",
    f"{_WEB}.scorecard_page": "the pages",
    f"{_WEB}.weak_spots_page": "the pages",
    f"{_WEB}.own_model_page": "the pages",
}
"""Module → what a visitor is told meanwhile."""


class BackgroundImport:
    """Imports modules in one thread, in the order of `modules`: module → what a visitor is told; see `start`."""

    def __init__(self, modules: dict[str, str]) -> None:
        self._modules = modules
        self._finished = threading.Event()
        self.current = next(iter(modules.values()))
        """What is being imported."""
        self.failed = False
        """Whether an import failed; the log has the reason."""
        self._lock = threading.Lock()
        self._started = False

    def start(self) -> None:
        """Start, unless another visitor has already."""
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._run, name="imports", daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether all modules are imported, or one failed."""
        return self._finished.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait until they are imported, at most `timeout` seconds; return whether they are."""
        return self._finished.wait(timeout)

    def _run(self) -> None:
        try:
            for module, name in self._modules.items():
                self.current = name
                import_module(module)
        except Exception:
            _logger.exception("an import failed")
            self.failed = True
        finally:
            self._finished.set()


@cache
def page_imports() -> BackgroundImport:
    """Return the imports that all pages need."""
    return BackgroundImport(_MODULES)
