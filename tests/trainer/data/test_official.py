"""The official archives, in miniature copies of their layouts."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from scipy.io import savemat

from hardrank.models.image_listing import ImageProblemKind
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import DataOptions, Dataset, DatasetError
from tests.trainer.data.images import write_classes, write_image

CUB = {1: "001.Albatross", 100: "100.Pelican", 101: "101.Pelican_White", 200: "200.Yellowthroat"}

CALTECH: Final = ["accordion", "ant", "barrel", "bass", "beaver", "bonsai"]


def load(name: str, root: Path | None, **options: Any) -> Dataset:
    return load_dataset(DataOptions(name=name, root=root, **options))


def write_cub(root: Path) -> Path:
    images = [(name, f"{name}/{name}_{i}.png", label) for label, name in CUB.items() for i in range(2)]
    for number, (_, path, _) in enumerate(images):
        write_image(root / "images" / path, number)
    (root / "images.txt").write_text("".join(f"{n} {path}\n" for n, (_, path, _) in enumerate(images, start=1)))
    (root / "image_class_labels.txt").write_text("".join(f"{n} {c}\n" for n, (*_, c) in enumerate(images, start=1)))
    (root / "classes.txt").write_text("".join(f"{label} {name}\n" for label, name in CUB.items()))
    return root


def annotations(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Build a struct array as MATLAB keeps it: 1×n, each field an object."""
    table = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for index, row in enumerate(rows):
        table[0, index] = tuple(row.values())
    return table


def write_cars(root: Path) -> Path:
    rows = []
    for number, label in enumerate([1, 1, 98, 98, 99, 99, 196, 196]):
        write_image(root / "car_ims" / f"{number:06d}.png", number)
        rows.append({"relative_im_path": f"car_ims/{number:06d}.png", "class": float(label), "test": float(number % 2)})
    savemat(root / "cars_annos.mat", {"annotations": annotations(rows)})
    return root


def write_cars_in_two_parts(root: Path, *, with_labels: bool = True) -> Path:
    (root / "devkit").mkdir(parents=True)
    for part, table in (("cars_train", "cars_train_annos"), ("cars_test", "cars_test_annos_withlabels")):
        rows: list[dict[str, Any]] = []
        for number, label in enumerate([2, 97, 99, 150]):
            write_image(root / part / f"{number:05d}.png", number + 50 * (part == "cars_test"))
            labels = {"class": float(label)} if with_labels or part == "cars_train" else {}
            rows.append({"bbox_x1": 1.0, "fname": f"{number:05d}.png", **labels})
        savemat(root / "devkit" / f"{table}.mat", {"annotations": annotations(rows)})
    return root


def write_sop(root: Path) -> Path:
    for half, classes in (("train", (1, 2)), ("test", (11_319, 11_320))):
        lines = ["image_id class_id super_class_id path"]
        for label in classes:
            for index in range(3):
                path = f"bicycle_final/{label}_{index}.png"
                write_image(root / path, label + index)
                lines.append(f"{len(lines)} {label} 1 {path}")
        (root / f"Ebay_{half}.txt").write_text("\n".join(lines) + "\n")
    return root


class TestCaltech:
    def test_forty_classes_train(self, tmp_path: Path) -> None:
        names = ["accordion", *(f"class_{number:02d}" for number in range(42))]
        data = load("caltech101", write_classes(tmp_path, names))
        assert (data.train.classes, data.test.classes) == (tuple(names[:40]), tuple(names[40:]))

    def test_options_change_the_split(self, tmp_path: Path) -> None:
        data = load("caltech101", write_classes(tmp_path, CALTECH), train_classes=2)
        assert data.train.classes == ("accordion", "ant")

    def test_a_split_into_folders_stands(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "train", CALTECH[:2])
        write_classes(tmp_path / "test", CALTECH[2:])
        assert load("caltech101", tmp_path).train.classes == ("accordion", "ant")

    def test_other_images_are_refused(self, tmp_path: Path) -> None:
        for root in (tmp_path, tmp_path / "train", tmp_path / "test"):
            write_classes(root, [f"{root.name}_{number}" for number in range(42)])
            with pytest.raises(DatasetError, match=r"is not Caltech-101.*folder --data\.root"):
                load("caltech101", tmp_path)

    def test_too_few_of_its_classes_are_counted(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"has only 6 classes .*--data\.train-classes"):
            load("caltech101", write_classes(tmp_path, CALTECH))

    def test_reference_photographs(self, shared_dir: Path) -> None:
        data = load("caltech101", shared_dir / "data" / "caltech101", decode_check=False)
        assert (len(data.train.classes), len(data.test.classes)) == (40, 39)
        assert len(data.train) + len(data.test) == 4886
        assert data.train.classes == tuple(sorted(data.train.classes))
        assert max(data.train.classes) < min(data.test.classes)
        assert data.problems == ()

    def test_default_root_is_the_shared_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_classes(tmp_path / "data" / "caltech101", CALTECH[:4])
        monkeypatch.setenv("SHARED_DIR", str(tmp_path))
        assert load("caltech101", None, train_classes=2).root == tmp_path / "data" / "caltech101"

    def test_absent_says_where_to_get_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHARED_DIR", str(tmp_path))
        with pytest.raises(DatasetError, match=r"doi:10\.22002/D1\.20086.*--data\.root FOLDER"):
            load("caltech101", None)


class TestCub:
    @pytest.mark.parametrize("inside", ["", "CUB_200_2011"])
    def test_classes_to_100_train(self, tmp_path: Path, inside: str) -> None:
        write_cub(tmp_path / inside)
        data = load("cub", tmp_path)
        assert data.train.classes == (CUB[1], CUB[100])
        assert data.test.classes == (CUB[101], CUB[200])
        assert [path.name for path in data.test.paths[:2]] == [f"{CUB[101]}_0.png", f"{CUB[101]}_1.png"]
        assert data.test.labels.tolist() == [0, 0, 1, 1]

    def test_missing_image_is_reported(self, tmp_path: Path) -> None:
        write_cub(tmp_path)
        write_image(tmp_path / "images" / CUB[1] / "third.png", 900)
        with (tmp_path / "images.txt").open("a") as images, (tmp_path / "image_class_labels.txt").open("a") as labels:
            images.write(f"9 {CUB[1]}/gone.png\n10 {CUB[1]}/third.png\n")
            labels.write("9 1\n10 1\n")
        data = load("cub", tmp_path)
        assert [(Path(p.path).name, p.kind) for p in data.problems] == [("gone.png", ImageProblemKind.MISSING)]
        assert len(data.train) == 5

    @pytest.mark.parametrize(
        ("table", "text", "message"),
        [
            ("image_class_labels.txt", "77 1\n", "image 77 of class 1 is not in"),
            ("image_class_labels.txt", "1 300\n", "image 1 of class 300 is not in"),
            ("image_class_labels.txt", "1\n", "line 1: expected 2 fields"),
            ("images.txt", "\none two\n", "line 2: expected 2 fields, the first a number"),
        ],
    )
    def test_tables_that_do_not_fit(self, tmp_path: Path, table: str, text: str, message: str) -> None:
        write_cub(tmp_path)
        (tmp_path / table).write_text(text)
        with pytest.raises(DatasetError, match=message):
            load("cub", tmp_path)

    def test_missing_table(self, tmp_path: Path) -> None:
        write_cub(tmp_path)
        (tmp_path / "classes.txt").unlink()
        with pytest.raises(DatasetError, match=r"cannot read .*classes\.txt"):
            load("cub", tmp_path)


class TestCars:
    def test_classes_to_98_train(self, tmp_path: Path) -> None:
        data = load("cars", write_cars(tmp_path))
        assert (data.train.classes, data.test.classes) == (("001", "098"), ("099", "196"))
        assert [path.name for path in data.train.paths] == [f"{number:06d}.png" for number in range(4)]

    def test_layout_in_two_parts(self, tmp_path: Path) -> None:
        data = load("cars", write_cars_in_two_parts(tmp_path))
        assert (data.train.classes, data.test.classes) == (("002", "097"), ("099", "150"))
        assert sorted(path.parent.name for path in data.train.paths) == ["cars_test"] * 2 + ["cars_train"] * 2

    def test_test_half_without_labels(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"fname and class .*cars_test_annos.*the file with labels"):
            load("cars", write_cars_in_two_parts(tmp_path, with_labels=False))

    @pytest.mark.parametrize(
        "content",
        [b"", b"nonsense" * 40, b"MATLAB 5.0 MAT-file" + b" " * 105 + b"\0\1IM\x0f\0\0\0\x10\0\0\0" + b"a" * 16],
    )
    def test_damaged_table(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "cars_annos.mat").write_bytes(content)
        with pytest.raises(DatasetError, match=r"cannot read .*cars_annos\.mat"):
            load("cars", tmp_path)

    def test_table_of_something_else(self, tmp_path: Path) -> None:
        for content in ({"other": 1.0}, {"annotations": 3.0}, {"annotations": annotations([{"fname": "a"}])}):
            savemat(tmp_path / "cars_annos.mat", content)
            with pytest.raises(DatasetError, match="relative_im_path and class"):
                load("cars", tmp_path)


class TestProducts:
    def test_own_split(self, tmp_path: Path) -> None:
        data = load("sop", write_sop(tmp_path))
        assert (data.train.classes, data.test.classes) == (("00001", "00002"), ("11319", "11320"))
        assert (len(data.train), len(data.test)) == (6, 6)

    def test_class_that_is_no_number(self, tmp_path: Path) -> None:
        write_sop(tmp_path)
        (tmp_path / "Ebay_test.txt").write_text("image_id class_id super_class_id path\n1 x 1 a.png\n")
        with pytest.raises(DatasetError, match=r"Ebay_test\.txt, image 1: .*'x'"):
            load("sop", tmp_path)


@pytest.mark.parametrize("name", ["cub", "cars", "sop"])
def test_root_is_needed_and_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"--data\.root FOLDER"):
        load(name, None)
    with pytest.raises(DatasetError, match="is not the unpacked archive"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", ["cub", "cars", "sop"])
@pytest.mark.parametrize(("option", "value"), [("train_classes", 0.5), ("split_seed", 1), ("csv", Path("a.csv"))])
def test_options_without_effect_are_refused(tmp_path: Path, name: str, option: str, value: object) -> None:
    with pytest.raises(DatasetError, match=f"does not use --data.{option.replace('_', '-')} .*folder"):
        load(name, tmp_path, **{option: value})
