"""Galleries of an audit: the same images from a folder, a run and an index, and galleries that are refused."""

import contextlib
import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardrank.audit_app.errors import GalleryError
from hardrank.audit_app.gallery.embedded import embed_galleries, embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_images, from_index, from_run, number_labels
from hardrank.audit_app.subjects.loading import load_subject, load_subjects
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.bundle import BundleError
from hardrank.models.image_listing import ListingError
from hardrank.models.preprocessing import prepare
from hardrank.models.progress import StageProgress
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.errors import WrongModelError
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.recipe import config_to_json, load_recipe
from tests.audit_app.galleries import OPTIONS
from tests.audit_app.indexed import make_index
from tests.audit_app.onnx_graphs import write_linear
from tests.trainer.tiny import write_recipe


@pytest.fixture(scope="module")
def benign(tiny_zoo: list[Path]) -> Subject:
    return load_subject(str(tiny_zoo[0]), OPTIONS)


def test_pixels_and_embeddings_are_those_of_serving(benign: Subject, gratings: Path) -> None:
    embedded = embed_gallery(benign, from_images(gratings))
    assert len(embedded) == 64
    assert embedded.gallery.classes == tuple(f"class-{i}" for i in range(8))
    files = sorted(path for path in gratings.rglob("*.png"))
    expected = np.stack([prepare(path.read_bytes(), benign.preprocessing) for path in files])
    np.testing.assert_array_equal(embedded.images(torch.arange(64)).numpy(), expected)
    np.testing.assert_allclose(embedded.embeddings.numpy(), benign.serve(expected), atol=2e-5)
    assert embedded.pixels(np.array([3, 1])).dtype == np.uint8
    assert [embedded.gallery.label(row) for row in (0, 8, 63)] == ["class-0", "class-1", "class-7"]
    assert len(embedded.tensors) == 64
    assert embedded.gallery.row(embedded.gallery.ids[5]) == 5
    with pytest.raises(GalleryError, match="no image with the id 'x'"):
        embedded.gallery.row("x")


def test_a_gallery_too_large_for_memory_is_read_again(benign: Subject, gratings: Path) -> None:
    reads: list[int] = []
    gallery = from_images(gratings)

    def counted(row: int) -> bytes:
        reads.append(row)
        return gallery.read(row)

    kept = embed_gallery(benign, replace(gallery, read=counted))
    embedded = embed_gallery(benign, replace(gallery, read=counted), cache_bytes=1000)
    reads.clear()
    rows = np.array([9, 3, 60])
    from_memory = kept.pixels(rows)
    assert reads == []
    np.testing.assert_array_equal(embedded.pixels(rows), from_memory)
    assert reads == [9, 3, 60]
    assert torch.equal(embedded.embeddings, kept.embeddings)


def test_models_share_a_gallery(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    onnx = write_linear(tmp_path / "m.onnx")
    subjects = load_subjects([*map(str, tiny_zoo), str(onnx)], OPTIONS)
    galleries = embed_galleries(subjects, from_images(gratings))
    assert galleries[0].gallery is galleries[2].gallery
    assert galleries[0].store is galleries[1].store
    assert galleries[2].pixels(np.array([0])).shape == (1, 3, 16, 16)


def test_images_that_cannot_be_read_are_left_out_and_named(benign: Subject, gratings: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(gratings, tmp_path / "some")
    (folder / "class-2" / "3.png").write_bytes(b"no image")
    (folder / "class-2" / "notes.txt").write_text("hello")
    seen: list[StageProgress] = []
    embedded = embed_gallery(benign, from_images(folder), on_progress=seen.append)
    assert len(embedded) == 63
    assert "class-2~3.png" not in embedded.gallery.ids
    named = "\n".join(embedded.gallery.problems)
    assert "class-2~3.png" in named
    assert "notes.txt" in named
    whole = embed_gallery(benign, from_images(gratings))
    kept = [whole.gallery.row(id) for id in embedded.gallery.ids]
    torch.testing.assert_close(embedded.embeddings, whole.embeddings[kept], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(embedded.pixels(np.arange(63)), whole.pixels(np.array(kept)))
    last = embedded.gallery.row("class-7~7.png")
    assert embedded.gallery.read(last) == (gratings / "class-7" / "7.png").read_bytes()
    assert {progress.stage for progress in seen} == {"images", "embeddings tiny-benign"}


def test_galleries_with_fewer_than_two_images_are_refused(benign: Subject, gratings: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    with pytest.raises(ListingError, match="lists no images"):
        from_images(one)
    shutil.copy(gratings / "class-0" / "0.png", one / "a.png")
    with pytest.raises(GalleryError, match=r"only one image that can be read \('a.png'\).*two or more"):
        embed_gallery(benign, from_images(one))
    (one / "a.png").write_bytes(b"x")
    with pytest.raises(GalleryError, match=r"no image that can be read; left out: a\.png"):
        embed_gallery(benign, from_images(one))
    with pytest.raises(ListingError, match="neither a folder"):
        from_images(tmp_path / "absent")


def test_a_digest_tells_galleries_apart(gratings: Path, tmp_path: Path) -> None:
    whole = from_images(gratings)
    assert whole.digest() == from_images(gratings).digest()
    moved = shutil.copytree(gratings, tmp_path / "moved")
    assert from_images(moved).digest() == whole.digest()
    (moved / "class-0" / "0.png").unlink()
    renamed = replace(whole, ids=("new", *whole.ids[1:]))
    regrouped = replace(whole, labels=np.roll(whole.labels, 1))
    for other in (from_images(moved), renamed, regrouped):
        assert other.digest() != whole.digest()


def test_an_index_gives_the_same_gallery(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    folder = make_index(tmp_path / "index", tiny_zoo[0], gratings)
    subjects = load_subjects(list(map(str, tiny_zoo)), OPTIONS)
    galleries = embed_galleries(subjects, from_index(folder))
    plain = embed_galleries(subjects, from_images(gratings))
    for embedded, other in zip(galleries, plain, strict=True):
        assert embedded.gallery.digest() == other.gallery.digest()
        torch.testing.assert_close(embedded.embeddings, other.embeddings)


def test_an_index_is_closed_after_reading(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    folder = make_index(tmp_path / "index", tiny_zoo[0], gratings)
    threads = set(threading.enumerate())

    def open_files() -> list[str]:
        paths = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                paths.append(str(entry.readlink()))
        return [path for path in paths if path.startswith(str(folder.resolve()))]

    gallery = from_index(folder)
    assert open_files() == []
    assert set(threading.enumerate()) <= threads
    vectors = gallery.indexes[0].vectors([gallery.ids[5], gallery.ids[2]])
    assert open_files() == []
    with SearchIndex.open(folder, maintenance=False) as index:
        np.testing.assert_array_equal(vectors, [index.vector(gallery.ids[5]), index.vector(gallery.ids[2])])


def test_labels_are_numbered_in_linear_time() -> None:
    names = [f"{number:05}" for number in range(60_000)]
    began = time.process_time()
    classes, labels = number_labels([*reversed(names), None])
    assert time.process_time() - began < 3  # a search of the list for each label takes over 10 s
    assert classes == ("", *names)
    np.testing.assert_array_equal(labels, [*range(60_000, 0, -1), 0])


def test_an_index_of_another_model_is_refused(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    folder = make_index(tmp_path / "index", tiny_zoo[0], gratings)
    with pytest.raises(WrongModelError, match=r"tiny-benign .* under audit: tiny-robust"):
        embed_gallery(load_subject(str(tiny_zoo[1]), OPTIONS), from_index(folder))


def test_an_index_with_other_vectors_is_refused(
    benign: Subject, tiny_zoo: list[Path], gratings: Path, tmp_path: Path
) -> None:
    folder = make_index(tmp_path / "index", tiny_zoo[0], gratings, turn=True)
    with pytest.raises(GalleryError, match="away from the embedding of tiny-benign"):
        embed_gallery(benign, from_index(folder))


def test_several_indexes_must_hold_the_same_images(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    one = make_index(tmp_path / "one", tiny_zoo[0], gratings)
    other = make_index(tmp_path / "other", tiny_zoo[1], gratings)
    subjects = load_subjects(list(map(str, tiny_zoo)), OPTIONS)
    assert len(embed_galleries(subjects, from_index(one, other))) == 2
    with SearchIndex.open(other, writable=True) as index:
        index.delete(["class-0~0.png"])
    with pytest.raises(GalleryError, match=r"do not hold the same images .*'class-0~0.png'"):
        from_index(one, other)


def test_an_indexed_file_that_has_changed_is_left_out(
    benign: Subject, tiny_zoo: list[Path], gratings: Path, tmp_path: Path
) -> None:
    copies = shutil.copytree(gratings, tmp_path / "copies")
    folder = make_index(tmp_path / "index", tiny_zoo[0], copies)
    shutil.copy(copies / "class-1" / "0.png", copies / "class-0" / "0.png")
    (copies / "class-0" / "1.png").unlink()
    embedded = embed_gallery(benign, from_index(folder))
    assert len(embedded) == 62
    assert any("class-0~0.png: its original file does not exist, has changed" in p for p in embedded.gallery.problems)


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="neither the folder of a run"):
        from_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(GalleryError, match="is damaged"):
        from_run(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(BundleError):
        from_run(tmp_path)


def test_a_run_gives_its_test_set_in_order(benign: Subject, gratings: Path, tmp_path: Path) -> None:
    config = load_recipe(str(write_recipe(tmp_path / "tiny.yaml", gratings)))
    (tmp_path / "run.json").write_text(json.dumps({"config": config_to_json(config)}))
    embedded = embed_gallery(benign, from_run(tmp_path))
    test = load_dataset(config.data).test
    store = ImageStore(test, config.preprocessing)
    np.testing.assert_array_equal(embedded.pixels(np.arange(32)), store.center(np.arange(32), 32))
    np.testing.assert_array_equal(embedded.gallery.labels, test.labels)
    assert embedded.gallery.classes == test.classes
    assert embedded.gallery.ids[0] == "class-4~0.png"
    moved = shutil.copytree(gratings, tmp_path / "moved")
    again = embed_gallery(benign, from_run(tmp_path, data_root=moved))
    assert again.gallery.digest() == embedded.gallery.digest()
