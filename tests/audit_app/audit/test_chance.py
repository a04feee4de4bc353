"""The warning of a model whose retrieval is no better than chance."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from hardrank.audit_app.audit.chance import chance_warning
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.served import ServedGallery


@pytest.fixture(scope="module")
def embedded(served: list[ServedGallery]) -> EmbeddedGallery:
    return served[1].embedded


def test_random_embeddings_are_flagged(embedded: EmbeddedGallery) -> None:
    points = F.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    warning = chance_warning(replace(embedded, embeddings=points))
    assert warning is not None
    assert "tiny-robust" in warning
    assert "chance is 0.111" in warning  # 7 of 63
    assert "--scale" in warning


def test_a_model_that_retrieves_is_not_flagged(embedded: EmbeddedGallery) -> None:
    assert chance_warning(embedded) is None
    classes = F.one_hot(embedded.labels, 16).float()
    assert chance_warning(replace(embedded, embeddings=classes)) is None


def test_galleries_without_matches_or_with_one_class_are_not_judged(embedded: EmbeddedGallery, gratings: Path) -> None:
    one = embed_gallery(embedded.subject, from_images(gratings / "class-0"))
    assert chance_warning(one) is None
