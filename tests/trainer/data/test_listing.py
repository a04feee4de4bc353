"""What the trainer lists is what serving reads."""

from pathlib import Path

from hardrank.serving.ingest.image_list import list_images
from hardrank.trainer.data.dataset import DataOptions
from hardrank.trainer.data.folder import load
from hardrank.trainer.data.listing import TEST_IMAGES, write_test_images
from tests.trainer.tiny import write_images


def test_the_list_of_test_images_can_be_indexed(tmp_path: Path) -> None:
    dataset = load(DataOptions(name="folder", root=write_images(tmp_path / "images")))
    write_test_images(dataset, tmp_path / TEST_IMAGES)
    listing = list_images(tmp_path / TEST_IMAGES)
    assert [entry.path for entry in listing.entries] == [path.resolve() for path in dataset.test.paths]
    assert [entry.label for entry in listing.entries] == [dataset.test.classes[label] for label in dataset.test.labels]
    assert listing.entries[0].id == "class-4~0.png"
    assert list(listing.problems) == []
    assert all(not entry.metadata for entry in listing.entries)
