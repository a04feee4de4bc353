"""Images without classes: pairs of an image and its augmented copy, and the recipe."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardrank.models.bundle import verify_bundle
from hardrank.models.image_listing import TEST_IMAGES, ImageProblemKind
from hardrank.models.preprocessing import Preprocessing
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import DataOptions, Dataset, DatasetError
from hardrank.trainer.data.near_duplicates import augmented_copy
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.recipe import load_recipe
from hardrank.trainer.run import main
from tests.trainer.place import without_onnx
from tests.trainer.tables import read_csv
from tests.trainer.tiny import write_images

IMAGES = 24


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images without classes: loose ones and a folder, with a duplicate and a damaged file."""
    folder = tmp_path_factory.mktemp("unlabelled")
    root = folder / "loose"
    (root / "holidays").mkdir(parents=True)
    for number, path in enumerate(sorted(write_images(folder / "images").rglob("*.png"))[: 2 * IMAGES : 2]):
        shutil.copy(path, root / ("holidays" if number < 5 else "") / f"{number}.png")
    shutil.copy(root / "7.png", root / "again.png")
    (root / "damaged.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def dataset(loose: Path) -> Dataset:
    return load_dataset(DataOptions(name="unlabelled", root=loose))


def test_each_image_is_a_class_with_its_copy(dataset: Dataset) -> None:
    for split in (dataset.train, dataset.test):
        assert split.copies is not None
        assert split.paths[0::2] == split.paths[1::2]
        np.testing.assert_array_equal(split.labels, np.arange(len(split.classes)).repeat(2))
        np.testing.assert_array_equal(split.copies, np.tile([False, True], len(split.classes)))
    train, test = (set(split.paths) for split in (dataset.train, dataset.test))
    assert not train & test
    assert len(train) + len(test) == IMAGES
    assert 3 <= len(test) <= 5
    assert {problem.kind for problem in dataset.problems} == {ImageProblemKind.DUPLICATE, ImageProblemKind.UNREADABLE}
    assert dataset.summary()["test"]["images"] == len(test)


def test_validation_images_keep_their_copies(loose: Path) -> None:
    found = load_dataset(DataOptions(name="unlabelled", root=loose, validation_classes=3))
    assert found.test.copies is not None
    assert (len(found.test), int(found.test.copies.sum())) == (6, 3)


def test_the_store_gives_originals_and_copies(dataset: Dataset) -> None:
    preprocessing = Preprocessing(resize=36, crop=32)
    whole = ImageStore(dataset.test, preprocessing)
    on_demand = ImageStore(dataset.test, preprocessing, cache_bytes=0)
    rows = np.arange(len(dataset.test))
    np.testing.assert_array_equal(whole[rows], on_demand[rows])
    with Image.open(dataset.test.paths[0]) as picture:
        assert np.abs(whole[rows][0].mean((1, 2)) - np.asarray(picture).mean((0, 1))).max() < 3
    assert not np.array_equal(whole[rows][0], whole[rows][1])


def test_a_copy_depends_on_the_seed_alone_and_resembles_its_image() -> None:
    y, x = np.mgrid[0:48, 0:48]
    image = np.stack([4 * x, 4 * y, 2 * (x + y)]).astype(np.uint8)
    copies = [augmented_copy(image, seed=seed) for seed in (1, 1, 2)]
    assert copies[0].shape == image.shape
    np.testing.assert_array_equal(copies[0], copies[1])
    assert not np.array_equal(copies[0], copies[2])
    assert all(0 < np.abs(copy.mean() - image.mean()) < 60 for copy in copies)


def test_too_few_images_are_an_error(loose: Path, tmp_path: Path) -> None:
    for number in range(3):
        shutil.copy(loose / f"{5 + number}.png", tmp_path)
    with pytest.raises(DatasetError, match="has 3 images; at least four are needed"):
        load_dataset(DataOptions(name="unlabelled", root=tmp_path))
    (tmp_path / "3.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="needs two readable images, but only 1 images are left"):
        load_dataset(DataOptions(name="unlabelled", root=tmp_path))
    with pytest.raises(DatasetError, match="they need no classes"):
        load_dataset(DataOptions(name="unlabelled"))


SMALL = (
    *("--architecture.backbone", "small-resnet", "--architecture.dimension", "16", "--architecture.image-size", "32"),
    *("--preprocessing.crop", "32", "--preprocessing.resize", "36", "--initialisation", "warmup"),
    *("--warmup.updates", "4", "--warmup.batch-size", "16", "--robust.updates", "3", "--robust.pairs", "4"),
    *("--evaluation.attacked", "4", "--evaluation.steps", "1", "--evaluation.strong-images", "0", "--no-preflight"),
)


def _train(folder: Path, images: Path, *options: str) -> Path:
    places = ("--zoo", str(folder / "zoo"), "--runs", str(folder / "runs"), "--device", "cpu", "--threads", "1")
    assert main(["unlabelled", "--data.root", str(images), *places, *options]) == 0
    return folder / "runs" / "unlabelled"


def test_the_recipe_trains_a_small_network(loose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with without_onnx():
        run = _train(tmp_path, loose, *SMALL)
    assert "find its augmented copy" in " ".join(capsys.readouterr().out.split())
    benign, robust = (verify_bundle(tmp_path / "zoo" / f"unlabelled-{kind}") for kind in ("benign", "robust"))
    assert {path.stem for path in (run / "checkpoints").glob("*.ckpt")} == {"warmup", "robust"}, "benign has no update"
    assert (benign.training, benign.defense, robust.defense) == ({}, "warm-up", "FARE")
    assert benign.data["classes_are"] == "images and their augmented copies"
    assert robust.metrics["queries"] == 2 * robust.data["test"]["images"]
    rows = read_csv(run / TEST_IMAGES)
    assert len({row["path"] for row in rows}) == len(rows) == robust.data["test"]["images"]


def test_the_recipe_is_pretrained_and_needs_no_labels() -> None:
    config = load_recipe("unlabelled")
    assert (config.initialisation, config.benign.updates, config.robust.defense) == ("imagenet", 0, "FARE")


@pytest.mark.slow
def test_the_recipe_trains_on_photographs(tmp_path: Path) -> None:
    photographs = Path(os.environ.get("SHARED_DIR", Path(__file__).parents[3] / "shared")) / "data" / "caltech101"
    if not photographs.is_dir():
        pytest.skip(f"the photographs are absent: {photographs}")
    (tmp_path / "loose").mkdir()
    for number, path in enumerate(sorted(photographs.glob("*/*.jpg"))[::90]):
        shutil.copy(path, tmp_path / "loose" / f"{number}.jpg")
    short = ("--robust.updates", "2", "--evaluation.attacked", "4", "--evaluation.steps", "2")
    run = _train(tmp_path, tmp_path / "loose", *short, "--evaluation.strong-images", "0")
    assert json.loads((run / "preflight.json").read_text(encoding="utf-8"))["total_seconds"] > 0
    benign = verify_bundle(tmp_path / "zoo" / "unlabelled-benign")
    assert benign.metrics["recall_at_1"] > 0.8
