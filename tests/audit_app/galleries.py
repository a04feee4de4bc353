"""Galleries and models for tests: images of gratings, two tiny bundles, and both as they are served."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from hardrank.audit_app.gallery.embedded import embed_galleries
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.served import ServedGallery, serve_gallery
from hardrank.audit_app.subjects.loading import load_subjects
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.serving.engine import Device
from tests.serving.bundles import write_bundle
from tests.trainer.tiny import write_images

OPTIONS = SubjectOptions(device=Device.CPU, threads=1)


def write_zoo(root: Path) -> list[Path]:
    """Two untrained bundles, tiny-benign and tiny-robust."""
    return [write_bundle(root / "tiny-benign", seed=0), write_bundle(root / "tiny-robust", seed=1)]


def write_gallery(root: Path) -> Path:
    """Eight classes of eight images."""
    return write_images(root)


def serve_galleries(models: list[Path], gallery: Path, *, resize: int | None = None) -> list[ServedGallery]:
    """The images of a folder, as served by each model."""
    subjects = load_subjects([str(model) for model in models], replace(OPTIONS, resize=resize))
    return [serve_gallery(embedded) for embedded in embed_galleries(subjects, from_images(gallery))]


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 pixels."""
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)
