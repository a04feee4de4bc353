"""Galleries for tests: images as models serve them, and random pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardrank.audit_app.blackbox.method import BlackBoxResult, Search
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_galleries
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.served import ServedGallery, serve_gallery
from hardrank.audit_app.subjects.loading import load_subjects
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.serving.engine import Device
from hardrank.trainer.attacks.attack import Victims, victims_in
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackOptions

OPTIONS = SubjectOptions(device=Device.CPU, threads=1)


def serve_galleries(models: list[Path], gallery: Path, *, resize: int | None = None) -> list[ServedGallery]:
    """The images of a folder, as served by each model."""
    subjects = load_subjects([str(model) for model in models], replace(OPTIONS, resize=resize))
    return [serve_gallery(embedded) for embedded in embed_galleries(subjects, from_images(gallery))]


def victims_and_images(embedded: EmbeddedGallery, rows: range) -> tuple[Victims, Tensor]:
    """Gallery rows as attacks take them, and their images."""
    chosen = torch.tensor(list(rows))
    return victims_in(embedded.tensors, chosen), embedded.images(chosen)


def search_images(
    search: Search, attack: str, embedded: EmbeddedGallery, rows: range, options: AttackOptions, **more: Any
) -> BlackBoxResult:
    """Attack gallery rows with a black-box search; `more` are its other arguments."""
    victims, images = victims_and_images(embedded, rows)
    return search(make_attack(attack), embedded.subject.judge, images, victims, embedded.tensors, options, **more)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 pixels."""
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)
