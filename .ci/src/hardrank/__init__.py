"""Image retrieval that withstands attacks: train robust embedding models, serve them, audit them.

The short names below are stable; `docs/python.md` shows how to use them. Each is imported when it is first used:
`import hardrank` is cheap, and a server without PyTorch can import what it needs.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hardrank.audit_app.gallery.embedded import embed_gallery as embed_gallery
    from hardrank.audit_app.gallery.image_gallery import from_images as read_gallery
    from hardrank.audit_app.subjects.loading import load_subject as load_model
    from hardrank.models.bundle import load_card as load_card
    from hardrank.models.bundle import load_embedder as load_embedder
    from hardrank.models.bundle import preprocessing_of as preprocessing_of
    from hardrank.models.decoding import read_bytes as read_bytes
    from hardrank.models.embedder import Architecture as Architecture
    from hardrank.models.embedder import build_embedder as build_embedder
    from hardrank.models.hub import load_from_hub as load_from_hub
    from hardrank.models.hub import pull_bundle as pull_bundle
    from hardrank.models.hub import push_bundle as push_bundle
    from hardrank.models.preprocessing import prepare as prepare
    from hardrank.serving.engine import Engine as Engine
    from hardrank.serving.index.search_index import SearchIndex as SearchIndex
    from hardrank.serving.ingest.image_list import list_images as list_images
    from hardrank.serving.ingest.indexer import add_images as add_images
    from hardrank.serving.store.manifest import IndexManifest as IndexManifest
    from hardrank.trainer.attacks.attack import victims_in as victims_in
    from hardrank.trainer.attacks.registry import make_attack as make_attack
    from hardrank.trainer.attacks.runner import AttackOptions as AttackOptions
    from hardrank.trainer.attacks.runner import run_attack as run_attack
    from hardrank.trainer.evaluation.robustness import RobustnessOptions as RobustnessOptions
    from hardrank.trainer.evaluation.robustness import measure_robustness as measure_robustness
    from hardrank.trainer.evaluation.threats import ThreatOptions as ThreatOptions
    from hardrank.trainer.evaluation.threats import measure_threats as measure_threats

__all__ = [
    "Architecture",
    "AttackOptions",
    "Engine",
    "IndexManifest",
    "RobustnessOptions",
    "SearchIndex",
    "ThreatOptions",
    "add_images",
    "build_embedder",
    "embed_gallery",
    "list_images",
    "load_card",
    "load_embedder",
    "load_from_hub",
    "load_model",
    "make_attack",
    "measure_robustness",
    "measure_threats",
    "prepare",
    "preprocessing_of",
    "pull_bundle",
    "push_bundle",
    "read_bytes",
    "read_gallery",
    "run_attack",
    "version",
    "victims_in",
]

_PLACES: Final = {
    "Architecture": ("models.embedder", "Architecture"),
    "AttackOptions": ("trainer.attacks.runner", "AttackOptions"),
    "Engine": ("serving.engine", "Engine"),
    "IndexManifest": ("serving.store.manifest", "IndexManifest"),
    "RobustnessOptions": ("trainer.evaluation.robustness", "RobustnessOptions"),
    "SearchIndex": ("serving.index.search_index", "SearchIndex"),
    "ThreatOptions": ("trainer.evaluation.threats", "ThreatOptions"),
    "add_images": ("serving.ingest.indexer", "add_images"),
    "build_embedder": ("models.embedder", "build_embedder"),
    "embed_gallery": ("audit_app.gallery.embedded", "embed_gallery"),
    "list_images": ("serving.ingest.image_list", "list_images"),
    "load_card": ("models.bundle", "load_card"),
    "load_embedder": ("models.bundle", "load_embedder"),
    "load_from_hub": ("models.hub", "load_from_hub"),
    "load_model": ("audit_app.subjects.loading", "load_subject"),
    "make_attack": ("trainer.attacks.registry", "make_attack"),
    "measure_robustness": ("trainer.evaluation.robustness", "measure_robustness"),
    "measure_threats": ("trainer.evaluation.threats", "measure_threats"),
    "prepare": ("models.preprocessing", "prepare"),
    "preprocessing_of": ("models.bundle", "preprocessing_of"),
    "pull_bundle": ("models.hub", "pull_bundle"),
    "push_bundle": ("models.hub", "push_bundle"),
    "read_bytes": ("models.decoding", "read_bytes"),
    "read_gallery": ("audit_app.gallery.image_gallery", "from_images"),
    "run_attack": ("trainer.attacks.runner", "run_attack"),
    "victims_in": ("trainer.attacks.attack", "victims_in"),
}
"""Short name → module below `hardrank`, and the name there."""


def __getattr__(name: str) -> object:
    """Import the short name `name` from where it is defined."""
    if name not in _PLACES:
        raise AttributeError(f"module 'hardrank' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"hardrank.{module}"), attribute)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


def version() -> str:
    """Return the version of the installed package."""
    return metadata.version("hardrank")
