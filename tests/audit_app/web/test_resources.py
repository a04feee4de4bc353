"""What the pages load: models by their names, and again when their files have changed."""

import os
from pathlib import Path

import pytest

from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.web.gallery_selection import read_gallery
from hardrank.audit_app.web.resources import modification_stamp


@pytest.mark.parametrize("name", ["{}", "mine={}", "timm/resnet18@{}", "mine=resnet18@{}"])
def test_a_changed_file_changes_the_stamp_whatever_the_model_is_called(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x")
    text = name.format(file)
    before = modification_stamp(text)
    assert modification_stamp(text) == before
    os.utime(file, ns=(1, 1))
    assert modification_stamp(text) != before


def test_the_test_images_of_a_model_with_a_label_are_found(tiny_zoo: list[Path]) -> None:
    assert read_gallery("", f"mine={tiny_zoo[0]}") == GallerySource.at(str(tiny_zoo[0]))
