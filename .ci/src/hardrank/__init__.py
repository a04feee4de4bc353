"""Image retrieval that withstands attacks: train robust embedding models, serve them, audit them.

The short names below are what `docs/python.md` shows. Each is imported when it is first used, so that `import hardrank`
is cheap and a server without PyTorch can import the parts that it needs.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hardrank.models.bundle import load_card as load_card
    from hardrank.models.bundle import load_embedder as load_embedder
    from hardrank.serving.engine import Engine as Engine
    from hardrank.serving.index.search_index import SearchIndex as SearchIndex
    from hardrank.trainer.attacks.registry import make_attack as make_attack
    from hardrank.trainer.attacks.runner import run_attack as run_attack
    from hardrank.trainer.evaluation.robustness import measure_robustness as measure_robustness


def version() -> str:
    """Return the version of the installed package."""
    return metadata.version("hardrank")


_PLACES: Final = {
    "Engine": "hardrank.serving.engine",
    "SearchIndex": "hardrank.serving.index.search_index",
    "load_card": "hardrank.models.bundle",
    "load_embedder": "hardrank.models.bundle",
    "make_attack": "hardrank.trainer.attacks.registry",
    "measure_robustness": "hardrank.trainer.evaluation.robustness",
    "run_attack": "hardrank.trainer.attacks.runner",
}

__all__ = [*_PLACES, "version"]


def __getattr__(name: str) -> object:
    """Import the public name `name` from where it is defined."""
    if name not in _PLACES:
        raise AttributeError(f"module 'hardrank' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
