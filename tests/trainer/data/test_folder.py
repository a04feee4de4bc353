"""Your own images: folders and CSV files, every kind of problem, every message."""

from pathlib import Path

import pytest

from hardrank.models.image_listing import ImageProblemKind
from hardrank.trainer.data import DATASETS, load_dataset
from hardrank.trainer.data.dataset import DataOptions, Dataset, DatasetError
from tests.trainer.data.images import write_classes, write_image


def load(root: Path, **options: object) -> Dataset:
    return load_dataset(DataOptions(name="folder", root=root, **options))  # type: ignore[arg-type]


def load_csv(path: Path, text: str | bytes, **options: object) -> Dataset:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_dataset(DataOptions(name="folder", csv=path, **options))  # type: ignore[arg-type]


def found(data: Dataset) -> list[tuple[str, ImageProblemKind]]:
    return sorted((p.path, p.kind) for p in data.problems)


def names(data: Dataset) -> list[str]:
    return sorted(path.name for path in (*data.train.paths, *data.test.paths))


ROWS = "".join(f"{c}/{c}_{i}.png,{c}\n" for c in "abcd" for i in range(2))


class TestClassFolders:
    def test_first_half_in_alphabetical_order_trains(self, tmp_path: Path) -> None:
        data = load(write_classes(tmp_path, "dcbafe"))
        assert (data.train.classes, data.test.classes) == (("a", "b", "c"), ("d", "e", "f"))
        assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert [p.parent.name for p in data.test.paths] == ["d", "d", "e", "e", "f", "f"]
        assert data.problems == ()

    @pytest.mark.parametrize(("wanted", "trained"), [(2, "ab"), (4, "abcd"), (0.34, "ab"), (0.67, "abcd")])
    def test_train_classes(self, tmp_path: Path, wanted: float, trained: str) -> None:
        data = load(write_classes(tmp_path, "abcdef"), train_classes=wanted)
        assert data.train.classes == tuple(trained)

    def test_validation_classes_are_training_classes(self, tmp_path: Path) -> None:
        whole = load(write_classes(tmp_path, "abcdefghij"))
        data = load(tmp_path, validation_classes=2)
        assert sorted(data.train.classes + data.test.classes) == list(whole.train.classes)
        assert (len(data.train.classes), len(data.test.classes)) == (3, 2)
        assert not set(data.test.paths) & set(whole.test.paths)
        for split in (data.train, data.test):
            assert [split.classes[label] for label in split.labels] == [path.parent.name for path in split.paths]
        assert data.summary()["split"] == "validation"
        assert "split" not in whole.summary()
        assert data.digest not in {whole.digest, load(tmp_path, validation_classes=3).digest}
        assert len({load(tmp_path, validation_classes=2, split_seed=seed).test.classes for seed in range(4)}) > 1

    @pytest.mark.parametrize(("count", "message"), [(1, "0 or at least 2"), (4, "fewer than two classes to train")])
    def test_too_few_classes_for_validation(self, tmp_path: Path, count: int, message: str) -> None:
        write_classes(tmp_path, "abcdefghij")
        with pytest.raises(DatasetError, match=message):
            load(tmp_path, validation_classes=count)

    def test_split_seed_shuffles_the_same_each_time(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcdefgh")
        drawn = {load(tmp_path, split_seed=seed).train.classes for seed in range(5)}
        assert len(drawn) > 1
        assert load(tmp_path, split_seed=3).train.classes == load(tmp_path, split_seed=3).train.classes
        for classes in drawn:
            assert len(classes) == 4

    @pytest.mark.parametrize("wanted", [0, 4, 9, -1, 1.0])
    def test_split_that_leaves_nothing(self, tmp_path: Path, wanted: float) -> None:
        with pytest.raises(DatasetError, match=r"train_classes = .* there are 4"):
            load(write_classes(tmp_path, "abcd"), train_classes=wanted)

    @pytest.mark.parametrize("wanted", [1, 3])
    def test_split_that_leaves_one_class(self, tmp_path: Path, wanted: int) -> None:
        with pytest.raises(DatasetError, match="only 1 classes"):
            load(write_classes(tmp_path, "abcd"), train_classes=wanted)

    def test_nested_images_count_and_hidden_ones_do_not(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        write_image(tmp_path / "a" / "deep" / "er" / "nested.png", 900)
        write_image(tmp_path / "a" / ".hidden.png", 901)
        write_image(tmp_path / "a" / ".cache" / "x.png", 902)
        write_image(tmp_path / ".trash" / "y.png", 903)
        data = load(tmp_path)
        assert "nested.png" in names(data)
        assert not {".hidden.png", "x.png", "y.png"} & set(names(data))
        assert data.problems == ()

    def test_every_problem_is_reported_by_path_and_left_out(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        (tmp_path / "a" / "broken.jpg").write_bytes(b"no image")
        (tmp_path / "a" / "empty.png").write_bytes(b"")
        (tmp_path / "a" / "notes.txt").write_text("notes")
        (tmp_path / "nothing").mkdir()
        write_image(tmp_path / "single" / "alone.png", 901)
        data = load(tmp_path)
        assert found(data) == [
            ("a/broken.jpg", ImageProblemKind.UNREADABLE),
            ("a/empty.png", ImageProblemKind.UNREADABLE),
            ("a/notes.txt", ImageProblemKind.NOT_AN_IMAGE),
            ("nothing", ImageProblemKind.EMPTY),
            ("single/alone.png", ImageProblemKind.SINGLE),
        ]
        assert data.train.classes + data.test.classes == ("a", "b", "c", "d")
        assert len(data.train) + len(data.test) == 8
        assert data.summary()["problems"]["unreadable image"] == 2
        assert any(line.startswith("a/notes.txt: not an image") for line in data.summary()["problem_files"])

    def test_images_of_one_name_in_two_folders_of_a_class_are_two_images(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "bcd")
        for sub in ("s1", "s2"):
            write_image(tmp_path / "a" / sub / "001.png", seed=len(sub))
        data = load(tmp_path)
        assert [path.relative_to(tmp_path).as_posix() for path in data.train.paths][:2] == [
            "a/s1/001.png",
            "a/s2/001.png",
        ]
        assert data.problems == ()

    def test_images_outside_the_class_folders_are_reported(self, tmp_path: Path) -> None:
        write_image(write_classes(tmp_path, "abcd") / "loose.png", 900)
        assert found(load(tmp_path)) == [("loose.png", ImageProblemKind.NO_CLASS)]

    def test_class_left_with_one_readable_image(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcdef")
        (tmp_path / "f" / "f_1.png").write_bytes(b"no image")
        data = load(tmp_path)
        assert found(data) == [("f/f_0.png", ImageProblemKind.SINGLE), ("f/f_1.png", ImageProblemKind.UNREADABLE)]
        assert data.test.classes == ("d", "e")

    def test_decode_check_can_be_skipped(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        (tmp_path / "a" / "broken.jpg").write_bytes(b"no image")
        assert "broken.jpg" in names(load(tmp_path, decode_check=False))

    def test_train_and_test_folders_are_the_split(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "train", "xyz")
        write_classes(tmp_path / "test", "ab")
        data = load(tmp_path)
        assert (data.train.classes, data.test.classes) == (("x", "y", "z"), ("a", "b"))

    @pytest.mark.parametrize("option", [{"train_classes": 1}, {"split_seed": 0}])
    def test_split_options_are_refused_where_the_images_have_a_split(
        self, tmp_path: Path, option: dict[str, object]
    ) -> None:
        write_classes(tmp_path / "train", "xyz")
        write_classes(tmp_path / "test", "ab")
        with pytest.raises(DatasetError, match=r"folders train and test .* leave out --data\.train-classes"):
            load(tmp_path, **option)
        (tmp_path / "list.csv").write_text("path,label,split\n")
        with pytest.raises(DatasetError, match=r"the column split of .* leave out --data\.train-classes"):
            load_dataset(DataOptions(name="folder", csv=tmp_path / "list.csv", **option))  # type: ignore[arg-type]

    def test_options_that_exclude_each_other(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        with pytest.raises(DatasetError, match="give one of them"):
            load(tmp_path, csv=tmp_path / "list.csv")
        with pytest.raises(DatasetError, match=r"does not use --data\.seed .*demo"):
            load(tmp_path, seed=3)

    def test_folders_beside_train_and_test_are_reported(self, tmp_path: Path) -> None:
        for part, classes in (("train", "ab"), ("test", "cd"), ("val", "ef"), ("extra", "gh")):
            write_classes(tmp_path / part, classes)
        data = load(tmp_path)
        assert (data.train.classes, data.test.classes) == (("a", "b"), ("c", "d"))
        assert found(data) == [("extra", ImageProblemKind.OUTSIDE), ("val", ImageProblemKind.OUTSIDE)]

    def test_class_in_train_and_test(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "train", "abc")
        write_classes(tmp_path / "test", "cde")
        with pytest.raises(DatasetError, match="'c' is in both train and test"):
            load(tmp_path)

    def test_too_few_class_folders(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"has 3 class folders .* at least four"):
            load(write_classes(tmp_path, "abc"))

    def test_empty_root(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="has 0 class folders"):
            load(tmp_path)

    def test_nothing_readable_names_an_example(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        for name in ("a_0.png", "a_1.png"):
            (tmp_path / "a" / name).write_bytes(b"no image")
        with pytest.raises(
            DatasetError, match=r"train needs two classes.*2 × unreadable image, for example a/a_0\.png"
        ):
            load(tmp_path)

    def test_no_root(self) -> None:
        with pytest.raises(DatasetError, match=r"--data\.root FOLDER"):
            load_dataset(DataOptions(name="folder"))

    def test_root_that_is_not_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"data\.root .*absent is not a folder"):
            load(tmp_path / "absent")


class TestCsv:
    def test_columns_in_any_order_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        rows = "".join(f"{c},{c}/{c}_{i}.png\r\n" for c in "abcd" for i in range(2))
        data = load_csv(tmp_path / "list.csv", "\ufefflabel,path\r\n" + rows)
        assert (data.train.classes, data.test.classes) == (("a", "b"), ("c", "d"))
        assert data.root == tmp_path
        assert all(path.is_file() for path in data.train.paths)

    def test_split_column(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        rows = "".join(f"{c}/{c}_{i}.png,{c},{'Train' if c in 'bd' else 'test'}\n" for c in "abcd" for i in range(2))
        data = load_csv(tmp_path / "list.csv", "path,label,split\n" + rows)
        assert (data.train.classes, data.test.classes) == (("b", "d"), ("a", "c"))

    def test_every_problem_is_reported(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        (tmp_path / "broken.png").write_bytes(b"no image")
        extra = "a/gone.png,a\n,a\nonly_path\na/a_0.png,b\nbroken.png,a\n" + "x" * 300 + ".png,a\nz\0.png,a\n"
        data = load_csv(tmp_path / "list.csv", "path,label\n" + ROWS + extra)
        assert [(Path(p.path).name[:8], p.kind, p.detail) for p in data.problems[:3]] == [
            ("list.csv", ImageProblemKind.BAD_ROW, "line 11: no path"),
            ("only_pat", ImageProblemKind.BAD_ROW, "line 12: no label"),
            ("a_0.png", ImageProblemKind.DUPLICATE, "line 13"),
        ]
        assert {(Path(p.path).name[:8], p.kind) for p in data.problems[3:]} == {
            ("gone.png", ImageProblemKind.MISSING),
            ("broken.p", ImageProblemKind.UNREADABLE),
            ("xxxxxxxx", ImageProblemKind.MISSING),
            ("z\0.png", ImageProblemKind.MISSING),
        }
        assert len(data.train) + len(data.test) == 8

    def test_rows_of_another_split_or_none(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcde")
        rows = "".join(f"{c}/{c}_{i}.png,{c},{'train' if c in 'ab' else 'test'}\n" for c in "abcd" for i in range(2))
        data = load_csv(tmp_path / "list.csv", "path,label,split\n" + rows + "e/e_0.png,e,val\ne/e_1.png,e,\n")
        assert [p.detail for p in data.problems] == ["line 10: the split is 'val'", "line 11: the split is ''"]
        assert {p.kind for p in data.problems} == {ImageProblemKind.BAD_ROW}

    def test_class_in_train_and_test(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        with pytest.raises(DatasetError, match="'a' is in both train and test"):
            load_csv(tmp_path / "list.csv", "path,label,split\na/a_0.png,a,train\na/a_1.png,a,test\n")

    @pytest.mark.parametrize("text", ["", "file,class\n1,2\n", "a,b,c\n", "path;label\n"])
    def test_missing_columns(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(DatasetError, match=r"list\.csv needs .*path"):
            load_csv(tmp_path / "list.csv", text)

    @pytest.mark.parametrize("text", [b"path,label\n\xff\xfe\x00,1\n", b'path,label\n"' + b"x" * 200_000])
    def test_file_that_is_not_csv(self, tmp_path: Path, text: bytes) -> None:
        with pytest.raises(DatasetError, match=r"cannot read .*list\.csv"):
            load_csv(tmp_path / "list.csv", text)

    def test_absent_csv(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"cannot read .*absent\.csv"):
            load_dataset(DataOptions(name="folder", csv=tmp_path / "absent.csv"))

    def test_no_rows(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="there are 0"):
            load_csv(tmp_path / "list.csv", "path,label\n")


class TestDigestAndRegistry:
    def test_digest_does_not_depend_on_the_folder(self, tmp_path: Path) -> None:
        first = load(write_classes(tmp_path / "one", "abcd"))
        second = load(write_classes(tmp_path / "two", "abcd"))
        assert first.digest == second.digest
        assert len(first.digest) == 64
        assert first.summary()["sha256"] == first.digest

    def test_digest_depends_on_content_name_and_class(self, tmp_path: Path) -> None:
        before = load(write_classes(tmp_path, "abcd")).digest
        write_image(tmp_path / "a" / "a_0.png", 900)
        content = load(tmp_path).digest
        (tmp_path / "a" / "a_0.png").rename(tmp_path / "a" / "a_9.png")
        name = load(tmp_path).digest
        (tmp_path / "a").rename(tmp_path / "aa")
        assert len({before, content, name, load(tmp_path).digest}) == 4

    def test_digest_ignores_what_was_left_out(self, tmp_path: Path) -> None:
        before = load(write_classes(tmp_path, "abcd")).digest
        (tmp_path / "a" / "notes.txt").write_text("notes")
        assert load(tmp_path).digest == before

    def test_summary_counts(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "abcd")
        write_image(tmp_path / "a" / "third.png", 900)
        summary = load(tmp_path).summary()
        assert summary["train"] == {"images": 5, "classes": 2, "smallest_class": 2, "largest_class": 3}
        assert summary["test"] == {"images": 4, "classes": 2, "smallest_class": 2, "largest_class": 2}

    def test_progress_counts_every_image(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        options = DataOptions(name="folder", root=write_classes(tmp_path, "abcd"))
        load_dataset(options, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(done, 8) for done in range(1, 9)]

    def test_unknown_name_lists_the_known_ones(self) -> None:
        with pytest.raises(DatasetError, match=f"'imagenet'; use one of {', '.join(DATASETS)}"):
            load_dataset(DataOptions(name="imagenet"))
