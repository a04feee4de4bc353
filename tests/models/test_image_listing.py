"""Listing images of folders and CSV files: which images, under which names and labels, and what is left out."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hardrank.models.image_listing import (
    SUFFIXES,
    ImageListing,
    ImageProblemKind,
    ListingError,
    list_csv,
    list_folder,
    subfolders,
)

LATIN_1 = os.fsdecode(b"r\xf6d")
"""A name that is not UTF-8."""


def touch(root: Path, *names: str) -> Path:
    """Write empty files, since listing decodes nothing."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def images(listing: ImageListing) -> list[tuple[str, str | None]]:
    return [(image.name, image.label) for image in listing.images]


def problems(listing: ImageListing) -> list[tuple[str, ImageProblemKind]]:
    return [(problem.path, problem.kind) for problem in listing.problems]


def csv_of(root: Path, text: str) -> ImageListing:
    (root / "list.csv").write_text(text, encoding="utf-8")
    return list_csv(root / "list.csv")


class TestFolder:
    def test_order_names_and_labels(self, tmp_path: Path) -> None:
        """As sorted by the parts of the path: in this order existing indexes number their items."""
        names = ["b/2.png", "a/z/1.jpg", "a-b/1.gif", "a/1.WEBP", "loose.tiff", "a/z.bmp", "b/10.jpeg"]
        listing = list_folder(touch(tmp_path, *names))
        assert [Path(image.name) for image in listing.images] == sorted(map(Path, names))
        assert images(listing) == [
            ("a/1.WEBP", "a"),
            ("a/z/1.jpg", "a"),
            ("a/z.bmp", "a"),
            ("a-b/1.gif", "a-b"),
            ("b/10.jpeg", "b"),
            ("b/2.png", "b"),
            ("loose.tiff", None),
        ]
        assert all(image.path == tmp_path / image.name for image in listing.images)
        assert listing.problems == []
        assert sorted(listing.folders) == ["a", "a-b", "b"] == subfolders(tmp_path)

    def test_every_suffix_in_any_case(self, tmp_path: Path) -> None:
        names = [f"{number}{form(suffix)}" for number, suffix in enumerate(SUFFIXES) for form in (str.lower, str.upper)]
        assert sorted(image.name for image in list_folder(touch(tmp_path, *names)).images) == sorted(names)

    def test_hidden_files_and_folders_are_ignored(self, tmp_path: Path) -> None:
        listing = list_folder(touch(tmp_path, "a/.x.png", ".trash/1.png", "a/.cache/2.png", "a/1.png"))
        assert (images(listing), problems(listing)) == ([("a/1.png", "a")], [])

    def test_other_files_are_named(self, tmp_path: Path) -> None:
        os.mkfifo(touch(tmp_path, "a/notes.txt", "a/none") / "a" / "pipe.png")
        kind = ImageProblemKind.NOT_AN_IMAGE
        assert problems(list_folder(tmp_path)) == [("a/none", kind), ("a/notes.txt", kind), ("a/pipe.png", kind)]

    def test_spaces_around_a_folder_name_make_no_other_label(self, tmp_path: Path) -> None:
        assert images(list_folder(touch(tmp_path, "cat/1.png", "cat /2.png"))) == [
            ("cat/1.png", "cat"),
            ("cat /2.png", "cat"),
        ]

    def test_links_to_files_and_folders_are_followed(self, tmp_path: Path) -> None:
        elsewhere = touch(tmp_path / "elsewhere", "1.png", "deep/2.png")
        root = touch(tmp_path / "root", "a/3.png")
        (root / "b").symlink_to(elsewhere)
        (root / "a" / "deep").symlink_to(elsewhere / "deep")
        (root / "a" / "4.png").symlink_to(elsewhere / "1.png")
        listing = list_folder(root)
        assert images(listing) == [
            ("a/3.png", "a"),
            ("a/4.png", "a"),
            ("a/deep/2.png", "a"),
            ("b/1.png", "b"),
            ("b/deep/2.png", "b"),
        ]
        assert listing.problems == []

    @pytest.mark.parametrize("target", [".", "..", "../a"])
    def test_a_link_to_a_folder_above_is_named(self, tmp_path: Path, target: str) -> None:
        touch(tmp_path, "a/1.png")
        (tmp_path / "a" / "loop").symlink_to(target)
        listing = list_folder(tmp_path)
        assert images(listing) == [("a/1.png", "a")]
        assert problems(listing) == [("a/loop", ImageProblemKind.LINK_LOOP)]

    def test_folders_that_link_to_each_other_end(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.png", "b/2.png")
        (tmp_path / "a" / "b").symlink_to("../b")
        (tmp_path / "b" / "a").symlink_to("../a")
        listing = list_folder(tmp_path)
        assert [image.name for image in listing.images] == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]
        assert problems(listing) == [("a/b/a", ImageProblemKind.LINK_LOOP), ("b/a/b", ImageProblemKind.LINK_LOOP)]

    def test_broken_links_are_named(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.png")
        (tmp_path / "a" / "gone.png").symlink_to("nowhere.png")
        (tmp_path / "a" / "self.png").symlink_to("self.png")
        (tmp_path / "class").symlink_to("nowhere")
        kind = ImageProblemKind.BROKEN_LINK
        assert problems(list_folder(tmp_path)) == [("a/gone.png", kind), ("a/self.png", kind), ("class", kind)]

    def test_names_that_are_not_utf_8_are_named(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.png", f"a/{LATIN_1}.png", f"{LATIN_1}/2.png")
        (tmp_path / "a" / "link.png").symlink_to(f"{LATIN_1}.png")
        listing = list_folder(tmp_path)
        assert images(listing) == [("a/1.png", "a")]
        kind = ImageProblemKind.NOT_UTF8
        assert problems(listing) == [("a/link.png", kind), (r"a/r\xf6d.png", kind), (r"r\xf6d", kind)]
        assert all((problem.path + problem.detail).isprintable() for problem in listing.problems)

    def test_a_root_that_is_not_utf_8(self, tmp_path: Path) -> None:
        root = touch(tmp_path / LATIN_1, "a/1.png", "list.csv")
        (tmp_path / "link").symlink_to(root)
        for list_it, path in ((list_folder, root), (list_folder, tmp_path / "link"), (list_csv, root / "list.csv")):
            with pytest.raises(ListingError, match="not UTF-8"):
                list_it(path)

    def test_unreadable_folders_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Root may read everything, so the refusal is injected."""
        touch(tmp_path, "a/1.png", "b/2.png")
        iterdir: Callable[[Path], object] = Path.iterdir

        def refusing(self: Path) -> object:
            if self.name == "b":
                raise PermissionError(13, "Permission denied")
            return iterdir(self)

        monkeypatch.setattr(Path, "iterdir", refusing)
        listing = list_folder(tmp_path)
        assert images(listing) == [("a/1.png", "a")]
        assert [(p.path, p.kind, p.detail) for p in listing.problems] == [
            ("b", ImageProblemKind.UNREADABLE_FOLDER, "Permission denied")
        ]
        for list_it in (list_folder, subfolders):
            with pytest.raises(ListingError, match="Permission denied"):
                list_it(tmp_path / "b")

    def test_a_deep_tree(self, tmp_path: Path) -> None:
        folder = tmp_path
        for _ in range(1200):  # above Python's limit of recursion
            folder = folder / "d"
            folder.mkdir()
        try:
            assert list_folder(tmp_path).images == []
        finally:
            while folder != tmp_path:  # shutil.rmtree is recursive, too
                folder.rmdir()
                folder = folder.parent

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ListingError, match="absent"):
            list_folder(tmp_path / "absent")


class TestCsv:
    def test_columns_in_any_order_with_spaces_quotes_and_a_byte_order_mark(self, tmp_path: Path) -> None:
        listing = csv_of(
            tmp_path,
            "\ufefflabel, path ,year\r\n cat , a/1.png,1999\r\n\r\n"
            '"big, gray cat", "a/2, 3.png",\r\ndog,"a/""x"".png"\r\n',
        )
        assert [(image.name, image.label, dict(image.columns), image.line) for image in listing.images] == [
            ("a/1.png", "cat", {"year": "1999"}, 2),
            ("a/2, 3.png", "big, gray cat", {}, 4),
            ('a/"x".png', "dog", {}, 5),
        ]
        assert listing.columns == ["label", "path", "year"]
        assert listing.images[0].path == tmp_path / "a" / "1.png"

    def test_an_unquoted_comma_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ListingError, match=r"line 3: 3 fields.*2 columns.*double quotes"):
            csv_of(tmp_path, "path,label\n1.png,cat\n2.png,big, gray\n")

    @pytest.mark.parametrize("text", ["path,label\n1.png,cat\n2.png,cat,\n", 'path,label\n1.png,"cat\n2.png,cat\n'])
    def test_malformed_rows_are_errors(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ListingError, match=r"list\.csv"):
            csv_of(tmp_path, text)

    def test_rows_without_a_path_are_named(self, tmp_path: Path) -> None:
        listing = csv_of(tmp_path, 'path,label\n1.png,"two\nlines"\n ,cat\n2.png\n')
        assert images(listing) == [("1.png", "two\nlines"), ("2.png", None)]
        assert [(p.kind, p.detail) for p in listing.problems] == [(ImageProblemKind.BAD_ROW, "line 4: no path")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [("", "needs a column path"), ("path;label\n", "path;label"), ("path,label, label\n", "'label' twice")],
    )
    def test_headers_that_do_not_fit(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ListingError, match=message):
            csv_of(tmp_path, text)

    def test_a_tilde_is_expanded_or_an_ordinary_character(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        listing = csv_of(tmp_path, "path\n~/1.png\n~no-such-user/2.png\n~3.png\na/~/4.png\n")
        assert [image.path for image in listing.images] == [
            Path("/home/me/1.png"),
            tmp_path / "~no-such-user/2.png",
            tmp_path / "~3.png",
            tmp_path / "a/~/4.png",
        ]

    def test_backslashes_separate_folders_unless_such_a_file_exists(self, tmp_path: Path) -> None:
        touch(tmp_path, "cat/1.png", "odd\\name.png")
        listing = csv_of(tmp_path, "path,relative_path\ncat\\1.png,cat\\1.png\nodd\\name.png,\n.\\cat\\1.png,\n")
        assert [(image.path, image.name) for image in listing.images] == [
            (tmp_path / "cat" / "1.png", "cat/1.png"),
            (tmp_path / "odd\\name.png", "odd\\name.png"),
            (tmp_path / "cat" / "1.png", "cat/1.png"),
        ]

    def test_the_relative_path_names_an_image(self, tmp_path: Path) -> None:
        listing = csv_of(tmp_path, "path,relative_path,label\n/data/x/1.png,x/1.png,x\n/data/y/2.png,,y\n")
        assert images(listing) == [("x/1.png", "x"), ("data/y/2.png", "y")]
        assert listing.images[0].path == Path("/data/x/1.png")

    def test_links_to_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        touch(tmp_path, f"{LATIN_1}/1.png", "2.png")
        (tmp_path / "link").symlink_to(LATIN_1)
        (tmp_path / "3.png").symlink_to(f"{LATIN_1}/1.png")
        listing = csv_of(tmp_path, "path\nlink/1.png\n2.png\n3.png\na\0b/4.png\n" + "x" * 300 + "/5.png\n")
        assert [image.name[:5] for image in listing.images] == ["2.png", "a\0b/4", "xxxxx"]
        assert problems(listing) == [("link/1.png", ImageProblemKind.NOT_UTF8), ("3.png", ImageProblemKind.NOT_UTF8)]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ListingError, match=r"absent\.csv"):
            list_csv(tmp_path / "absent.csv")
