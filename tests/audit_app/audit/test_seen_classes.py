"""The warning of a gallery with classes that the model was trained on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hardrank.audit_app.audit.runner import gallery_warnings
from hardrank.audit_app.audit.seen_classes import seen_warning
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.subjects.subject import Subject
from hardrank.trainer.data.dataset import DataOptions


@pytest.fixture(scope="module")
def embedded(served: list[ServedGallery], gratings: Path) -> EmbeddedGallery:
    """The gratings, embedded by a model that was trained on the first half of their classes."""
    subject = _trained_on(served[1].subject, {"name": "folder", "root": str(gratings)})
    return replace(served[1].embedded, subject=subject)


def _trained_on(subject: Subject, data: dict[str, str]) -> Subject:
    assert subject.card is not None
    return replace(subject, card=subject.card.model_copy(update={"config": {"name": "tiny", "data": data}}))


def test_the_folder_of_training_is_flagged(embedded: EmbeddedGallery, tiny_zoo: list[Path]) -> None:
    warning = seen_warning(embedded)
    assert warning is not None
    assert "32 of the 64" in warning
    assert "class-0, class-1, class-2 and 1 more" in warning
    assert f"--run {tiny_zoo[1]}" in warning
    assert warning in gallery_warnings([embedded])


def test_images_without_classes_are_recognized_by_their_path(embedded: EmbeddedGallery, gratings: Path) -> None:
    subject = _trained_on(embedded.subject, {"name": "unlabelled", "root": str(gratings)})
    warning = seen_warning(replace(embedded, subject=subject))
    assert warning is not None
    assert "51 of the 64" in warning  # a fifth is held out


def test_new_classes_and_the_test_images_of_the_run_are_not_flagged(
    embedded: EmbeddedGallery, gratings: Path, tmp_path: Path
) -> None:
    for number in range(4, 8):
        shutil.copytree(gratings / f"class-{number}", tmp_path / f"class-{number}")
    assert seen_warning(replace(embedded, gallery=from_images(tmp_path))) is None
    tested = replace(embedded.gallery, data=DataOptions(name="folder", root=tmp_path))  # moved since
    assert seen_warning(replace(embedded, gallery=tested)) is None


def test_a_data_set_that_is_gone_is_not_judged(embedded: EmbeddedGallery, tmp_path: Path) -> None:
    subject = _trained_on(embedded.subject, {"name": "folder", "root": str(tmp_path / "gone")})
    assert seen_warning(replace(embedded, subject=subject)) is None


def test_the_demo_set_is_not_drawn_to_compare_classes(embedded: EmbeddedGallery, tmp_path: Path) -> None:
    subject = _trained_on(embedded.subject, {"name": "demo", "root": str(tmp_path / "demo")})
    assert seen_warning(replace(embedded, subject=subject)) is None
    assert not (tmp_path / "demo").exists()
