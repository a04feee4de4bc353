"""The images to index: ids, labels, metadata, and what is left out."""

import json
import shutil
from pathlib import Path

import pytest

from hardrank.models.image_listing import ImageProblemKind, ListingError
from hardrank.serving.ingest.image_list import list_images, list_run
from hardrank.serving.store.items import MAX_TEXT, check_id, id_of_path
from tests.serving.pictures import write_gallery, write_picture


def test_ids_and_labels_of_a_folder(tmp_path: Path) -> None:
    root = write_gallery(tmp_path, labels=2, each=2)
    write_picture(root / "loose.PNG", seed=1)
    write_picture(root / "class-0" / "deep" / "x.webp", seed=2)
    write_picture(root / ".hidden" / "x.png", seed=3)
    (root / "notes.txt").write_text("no image")
    listing = list_images(root)
    assert {entry.id: entry.label for entry in listing.entries} == {
        "class-0~0.jpg": "class-0",
        "class-0~1.png": "class-0",
        "class-0~deep~x.webp": "class-0",
        "class-1~0.jpg": "class-1",
        "class-1~1.png": "class-1",
        "loose.PNG": None,
    }
    assert [(one.path, one.kind) for one in listing.problems] == [("notes.txt", ImageProblemKind.NOT_AN_IMAGE)]


@pytest.mark.parametrize(
    "path",
    ["a/b.jpg", "a b.jpg", "a~b.jpg", "a_b.jpg", "ä.jpg", "x" * 300, "y" * 300, "a/" * 100, "..", ".", "a\\b.jpg"],
)
def test_ids_of_paths_are_ids_and_differ(path: str) -> None:
    check_id(id_of_path(path))
    others = ["a/b.jpg", "a b.jpg", "a~b.jpg", "a_b.jpg", "ä.jpg", "ö.jpg", "x" * 300, "x" * 301, "a/" * 100, "..", "."]
    assert sum(id_of_path(other) == id_of_path(path) for other in {*others, path}) == 1
    assert len(id_of_path(path)) <= MAX_TEXT
    assert id_of_path("class/plain-1.jpg") == "class~plain-1.jpg"


def test_ids_labels_and_metadata_of_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "\ufeffpath,id,label,year,note\n"
        "a/1.png,one,cat,1999,\n"
        "a/2.png,,,2001,fine\n"
        "a/3.png,one,dog,,\n"
        ",four,dog,,\n"
        "a/5.png,fi/ve,dog,,\n"
        "a/7.png\n",
        encoding="utf-8",
    )
    listing = list_images(tmp_path / "list.csv")
    assert [(entry.id, entry.label, dict(entry.metadata)) for entry in listing.entries] == [
        ("one", "cat", {"year": "1999"}),
        ("a~2.png", None, {"year": "2001", "note": "fine"}),
        ("a~7.png", None, {}),
    ]
    assert listing.entries[0].path == tmp_path / "a" / "1.png"
    assert sorted(one.kind for one in listing.problems) == [
        ImageProblemKind.BAD_NAME,
        ImageProblemKind.BAD_ROW,
        ImageProblemKind.DUPLICATE,
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,label\nx,y\n", "needs a column path"),
        (b"path\n", "lists no images"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_a_csv_file_without_images(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ListingError, match=message):
        list_images(tmp_path / "list.csv")


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ListingError, match="neither a folder of images nor a CSV"):
        list_images(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ListingError, match=r"lists no images.*left out: notes.txt \(not an image\)"):
        list_images(tmp_path)


def test_a_run_lists_its_test_images(tmp_path: Path, benign_bundle: Path) -> None:
    bundle = tmp_path / "models" / "zoo" / "tiny-benign"
    shutil.copytree(benign_bundle, bundle)
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    with pytest.raises(ListingError, match=r"the run that made .*tiny-benign is not in .*runs/tiny"):
        list_run(bundle)
    (run / "run.json").write_text(json.dumps({"run_id": "seed 0"}))
    with pytest.raises(ListingError, match="--resume"):
        list_run(run)
    image = write_picture(tmp_path / "images" / "1.png", seed=0)
    (run / "test_images.csv").write_text(f"path,relative_path,label\n{image},c/1.png,c\n")
    for place in (run, bundle):
        (entry,) = list_run(place).entries
        assert (entry.path, entry.id, entry.label) == (image, "c~1.png", "c")
    with pytest.raises(ListingError, match="neither the folder of a run nor a bundle"):
        list_run(tmp_path)
