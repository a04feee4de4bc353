"""Training, indexing and audits read the same folder or CSV file alike."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.models.errors import HardrankError
from hardrank.models.image_listing import TEST_IMAGES
from hardrank.serving.ingest.image_list import list_images
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import DataOptions, Dataset, relative, write_test_images
from tests.trainer.data.images import write_classes, write_image

LATIN_1 = os.fsdecode(b"r\xf6d")
Read = Callable[[Path], tuple[list[tuple[Path, str | None]], list[tuple[str, str]]]]
"""Folder or CSV file → (path, label) of each image, sorted, and (path, reason) of each problem, sorted."""


def trained(place: Path) -> Dataset:
    if place.suffix == ".csv":
        return load_dataset(DataOptions(name="folder", csv=place))
    return load_dataset(DataOptions(name="folder", root=place))


def read_for_training(place: Path) -> tuple[list[tuple[Path, str | None]], list[tuple[str, str]]]:
    data = trained(place)
    images = [
        (path, split.classes[label])
        for split in (data.train, data.test)
        for path, label in zip(split.paths, split.labels, strict=True)
    ]
    return sorted(images), sorted((problem.path, str(problem.kind)) for problem in data.problems)


def read_for_indexing(place: Path) -> tuple[list[tuple[Path, str | None]], list[tuple[str, str]]]:
    listing = list_images(place)
    images = [(entry.path, entry.label) for entry in listing.entries]
    return sorted(images), sorted((problem.path, str(problem.kind)) for problem in listing.problems)


def read_for_audits(place: Path) -> tuple[list[tuple[Path, str | None]], list[tuple[str, str]]]:
    gallery = from_images(place)
    by_bytes = {path.read_bytes(): path for path, _ in read_for_indexing(place)[0]}
    images = [(by_bytes[gallery.read(row)], gallery.label(row)) for row in range(len(gallery))]
    return sorted(images), sorted((path, kind) for path, _, kind in (one.rpartition(": ") for one in gallery.problems))


@pytest.fixture(params=[read_for_training, read_for_indexing, read_for_audits])
def read(request: pytest.FixtureRequest) -> Read:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four classes of two images, enough to train and test."""
    return write_classes(tmp_path / "photos", "abcd")


def expected(root: Path) -> list[tuple[Path, str | None]]:
    return [(root / label / f"{label}_{number}.png", label) for label in "abcd" for number in range(2)]


def rows(root: Path) -> str:
    return "".join(f"{path.relative_to(root)},{label}\n" for path, label in expected(root))


class TestFolder:
    def test_class_folders(self, root: Path, read: Read) -> None:
        assert read(root) == (expected(root), [])

    def test_a_tilde_in_the_path(self, root: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(root.parent))
        assert read(Path("~/photos")) == (expected(root), [])
        monkeypatch.chdir(root.parent)
        root.rename(root.with_name("~no-such-user"))
        images, _ = read(Path("~no-such-user"))
        assert [path.name for path, _ in images] == [path.name for path, _ in expected(root)]

    def test_one_name_in_two_folders_of_a_class(self, root: Path, read: Read) -> None:
        more = [write_image(root / "a" / sub / "001.png", seed) for seed, sub in ((900, "s1"), (901, "s2"))]
        assert read(root) == (sorted([*expected(root), *((path, "a") for path in more)]), [])

    def test_linked_class_folders_loops_and_broken_links(self, root: Path, read: Read) -> None:
        for number in range(2):
            write_image(root.parent / "elsewhere" / f"{number}.png", 900 + number)
        (root / "e").symlink_to(root.parent / "elsewhere")
        (root / "a" / "up").symlink_to("..")
        (root / "a" / "gone.png").symlink_to("nowhere.png")
        images, problems = read(root)
        assert images == [*expected(root), *((root / "e" / f"{number}.png", "e") for number in range(2))]
        assert problems == [("a/gone.png", "broken link"), ("a/up", "link to a folder above it")]

    def test_names_that_are_not_utf_8(self, root: Path, read: Read) -> None:
        write_image(root / "a" / f"{LATIN_1}.png", 900)
        write_image(root / LATIN_1 / "1.png", 901)
        reason = "name is not UTF-8"
        assert read(root) == (expected(root), [(r"a/r\xf6d.png", reason), (r"r\xf6d", reason)])
        root.rename(root.with_name(LATIN_1))
        with pytest.raises(HardrankError, match="not UTF-8"):
            read(root.with_name(LATIN_1))

    def test_unreadable_folders(self, root: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
        write_image(root / "a" / "locked" / "1.png", 900)
        iterdir: Callable[[Path], object] = Path.iterdir

        def refusing(self: Path) -> object:
            if self.name == "locked":
                raise PermissionError(13, "Permission denied")
            return iterdir(self)

        monkeypatch.setattr(Path, "iterdir", refusing)
        assert read(root) == (expected(root), [("a/locked", "unreadable folder")])

    def test_other_files(self, root: Path, read: Read) -> None:
        (root / "a" / "notes.txt").write_text("notes")
        assert read(root) == (expected(root), [("a/notes.txt", "not an image")])


class TestCsv:
    def test_spaces_in_header_and_labels(self, root: Path, read: Read) -> None:
        (root / "list.csv").write_text("\ufeffpath, label\n" + rows(root).replace("a\n", "a  \n", 1), encoding="utf-8")
        assert read(root / "list.csv") == (expected(root), [])

    def test_an_unquoted_comma(self, root: Path, read: Read) -> None:
        (root / "list.csv").write_text("path,label\n" + rows(root) + "a/a_0.png,big, gray\n")
        with pytest.raises(HardrankError, match=r"list\.csv, line 10: 3 fields.*double quotes"):
            read(root / "list.csv")

    def test_quoted_commas(self, root: Path, read: Read) -> None:
        (root / "list.csv").write_text("path,label\n" + rows(root).replace(",a\n", ',"a, gray"\n'))
        images = [(path, "a, gray" if label == "a" else label) for path, label in expected(root)]
        assert read(root / "list.csv") == (images, [])

    def test_backslash_paths(self, root: Path, read: Read) -> None:
        (root / "list.csv").write_text("path,label\n" + rows(root).replace("/", "\\"))
        assert read(root / "list.csv") == (expected(root), [])

    def test_a_tilde_in_a_row(self, root: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(root))
        write_image(root / "~odd.png", 900)
        (root / "list.csv").write_text("path,label\n" + rows(root).replace("a/", "~/a/") + "~odd.png,d\n")
        assert read(root / "list.csv") == ([*expected(root), (root / "~odd.png", "d")], [])


def test_ids_are_the_same_in_training_and_index(root: Path) -> None:
    data = trained(root)
    listed = {entry.path: entry.id for entry in list_images(root).entries}
    write_test_images(data, root.parent / TEST_IMAGES)
    of_run = list_images(root.parent / TEST_IMAGES)
    assert [entry.id for entry in of_run.entries] == [listed[path] for path in data.test.paths]
    assert [entry.label for entry in of_run.entries] == [relative(path, root)[0] for path in data.test.paths]
    assert of_run.entries[0].id == "c~c_0.png"
    assert all(not entry.metadata for entry in of_run.entries)
