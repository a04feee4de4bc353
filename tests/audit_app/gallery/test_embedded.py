"""Galleries of an audit: the same images from a folder, a run and an index, and what is wrong with others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hardrank.audit_app.errors import SceneError
from hardrank.audit_app.gallery import embedded as scene_module
from hardrank.audit_app.gallery.collection import from_images, from_index, from_run
from hardrank.audit_app.gallery.embedded import make_scene, make_scenes
from hardrank.audit_app.subjects.loading import Subject, load_subject, load_subjects
from hardrank.models.bundle import BundleError
from hardrank.models.preprocessing import prepare
from hardrank.models.progress import StageProgress
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import ListingError
from hardrank.serving.store.errors import WrongModelError
from hardrank.trainer.config import config_to_json, load_recipe
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.store import ImageStore
from tests.audit_app.indexed import make_index
from tests.audit_app.onnx_graphs import write_linear
from tests.audit_app.stage import OPTIONS
from tests.trainer.tiny import write_recipe


@pytest.fixture(scope="module")
def benign(tiny_zoo: list[Path]) -> Subject:
    return load_subject(str(tiny_zoo[0]), OPTIONS)


def test_pixels_and_embeddings_are_those_of_serving(benign: Subject, gratings: Path) -> None:
    scene = make_scene(benign, from_images(gratings))
    assert len(scene) == 64
    assert scene.collection.classes == tuple(f"class-{i}" for i in range(8))
    files = sorted(path for path in gratings.rglob("*.png"))
    expected = np.stack([prepare(path.read_bytes(), benign.preprocessing) for path in files])
    np.testing.assert_array_equal(scene.images(torch.arange(64)).numpy(), expected)
    np.testing.assert_allclose(scene.embeddings.numpy(), benign.serve(expected), atol=2e-5)
    assert scene.pixels(np.array([3, 1])).dtype == np.uint8
    assert [scene.collection.label(row) for row in (0, 8, 63)] == ["class-0", "class-1", "class-7"]
    assert len(scene.gallery) == 64
    assert scene.collection.row(scene.collection.ids[5]) == 5
    with pytest.raises(SceneError, match="no image with the id 'x'"):
        scene.collection.row("x")


def test_a_gallery_too_large_for_memory_is_read_again(
    benign: Subject, gratings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make_scene(benign, from_images(gratings))
    monkeypatch.setattr(scene_module, "CACHE_BYTES", 1000)
    scene = make_scene(benign, from_images(gratings))
    assert kept.store.nbytes == 64 * 3 * 32 * 32
    assert scene.store.nbytes == 0
    rows = np.array([9, 3, 60])
    np.testing.assert_array_equal(scene.pixels(rows), kept.pixels(rows))
    assert torch.equal(scene.embeddings, kept.embeddings)


def test_models_share_a_gallery(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    onnx = write_linear(tmp_path / "m.onnx")
    subjects = load_subjects([*map(str, tiny_zoo), str(onnx)], OPTIONS)
    scenes = make_scenes(subjects, from_images(gratings))
    assert scenes[0].collection is scenes[2].collection
    assert scenes[0].store is scenes[1].store
    assert scenes[2].pixels(np.array([0])).shape == (1, 3, 16, 16)


def test_images_that_cannot_be_read_are_left_out_and_named(benign: Subject, gratings: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(gratings, tmp_path / "some")
    (folder / "class-2" / "3.png").write_bytes(b"no image")
    (folder / "class-2" / "notes.txt").write_text("hello")
    seen: list[StageProgress] = []
    scene = make_scene(benign, from_images(folder), report=seen.append)
    assert len(scene) == 63
    assert "class-2~3.png" not in scene.collection.ids
    named = "\n".join(scene.collection.problems)
    assert "class-2~3.png" in named
    assert "notes.txt" in named
    whole = make_scene(benign, from_images(gratings))
    kept = [whole.collection.row(id) for id in scene.collection.ids]
    torch.testing.assert_close(scene.embeddings, whole.embeddings[kept], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(scene.pixels(np.arange(63)), whole.pixels(np.array(kept)))
    last = scene.collection.row("class-7~7.png")
    assert scene.collection.read(last) == (gratings / "class-7" / "7.png").read_bytes()
    assert {progress.stage for progress in seen} == {"images", "embeddings tiny-benign"}


def test_galleries_without_a_ranking(benign: Subject, gratings: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    with pytest.raises(ListingError, match="lists no images"):
        from_images(one)
    shutil.copy(gratings / "class-0" / "0.png", one / "a.png")
    with pytest.raises(SceneError, match=r"one image that can be read \('a.png'\).*two or more"):
        make_scene(benign, from_images(one))
    (one / "a.png").write_bytes(b"x")
    with pytest.raises(SceneError, match=r"no image that can be read; left out: a\.png"):
        make_scene(benign, from_images(one))
    with pytest.raises(ListingError, match="neither a folder"):
        from_images(tmp_path / "absent")


def test_a_digest_tells_galleries_apart(gratings: Path, tmp_path: Path) -> None:
    whole = from_images(gratings)
    assert whole.digest() == from_images(gratings).digest()
    moved = shutil.copytree(gratings, tmp_path / "moved")
    assert from_images(moved).digest() == whole.digest()
    (moved / "class-0" / "0.png").unlink()
    assert from_images(moved).digest() != whole.digest()


def test_an_index_gives_the_same_gallery(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    folder = make_index(tmp_path / "index", tiny_zoo[0], gratings)
    subjects = load_subjects(list(map(str, tiny_zoo)), OPTIONS)
    scenes = make_scenes(subjects, from_index(folder))
    plain = make_scenes(subjects, from_images(gratings))
    for scene, other in zip(scenes, plain, strict=True):
        assert scene.collection.digest() == other.collection.digest()
        torch.testing.assert_close(scene.embeddings, other.embeddings)


def test_an_index_of_another_model(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    folder = make_index(tmp_path / "index", tiny_zoo[0], gratings)
    with pytest.raises(WrongModelError, match=r"with the model tiny-benign .* none of those under audit: tiny-robust"):
        make_scene(load_subject(str(tiny_zoo[1]), OPTIONS), from_index(folder))


def test_an_index_with_other_vectors(benign: Subject, tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    folder = make_index(tmp_path / "index", tiny_zoo[0], gratings, turn=True)
    with pytest.raises(SceneError, match="away from where tiny-benign embeds it"):
        make_scene(benign, from_index(folder))


def test_several_indexes_must_hold_the_same_images(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    one = make_index(tmp_path / "one", tiny_zoo[0], gratings)
    other = make_index(tmp_path / "other", tiny_zoo[1], gratings)
    subjects = load_subjects(list(map(str, tiny_zoo)), OPTIONS)
    assert len(make_scenes(subjects, from_index(one, other))) == 2
    with SearchIndex.open(other, writable=True) as index:
        index.delete(["class-0~0.png"])
    with pytest.raises(SceneError, match=r"do not hold the same images \(1 ids are in one alone, as 'class-0~0.png'\)"):
        from_index(one, other)


def test_an_indexed_file_that_has_changed_is_left_out(
    benign: Subject, tiny_zoo: list[Path], gratings: Path, tmp_path: Path
) -> None:
    copies = shutil.copytree(gratings, tmp_path / "copies")
    folder = make_index(tmp_path / "index", tiny_zoo[0], copies)
    shutil.copy(copies / "class-1" / "0.png", copies / "class-0" / "0.png")
    (copies / "class-0" / "1.png").unlink()
    scene = make_scene(benign, from_index(folder))
    assert len(scene) == 62
    assert any(
        "class-0~0.png: the file it was indexed from is gone, has changed" in p for p in scene.collection.problems
    )


def test_a_run_that_is_none(tmp_path: Path, tiny_zoo: list[Path]) -> None:
    with pytest.raises(SceneError, match="neither the folder of a run nor a bundle"):
        from_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SceneError, match="is damaged"):
        from_run(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(BundleError):
        from_run(tmp_path)


def test_the_test_set_of_a_run_in_its_order(benign: Subject, gratings: Path, tmp_path: Path) -> None:
    config = load_recipe(str(write_recipe(tmp_path / "tiny.yaml", gratings)))
    (tmp_path / "run.json").write_text(json.dumps({"config": config_to_json(config)}))
    scene = make_scene(benign, from_run(tmp_path))
    test = load_dataset(config.data).test
    store = ImageStore(test, config.preprocessing.resize)
    np.testing.assert_array_equal(scene.pixels(np.arange(32)), store.centre(np.arange(32), 32))
    np.testing.assert_array_equal(scene.collection.labels, test.labels)
    assert scene.collection.classes == test.classes
    assert scene.collection.ids[0] == "class-4~0.png"
    moved = shutil.copytree(gratings, tmp_path / "moved")
    again = make_scene(benign, from_run(tmp_path, data_root=moved))
    assert again.collection.digest() == scene.collection.digest()
