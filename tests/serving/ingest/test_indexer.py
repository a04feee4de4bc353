"""Each image becomes one item with the network's embedding, across interruptions and changes."""

import errno
import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from hardrank.models.decode_limits import DecodeLimits
from hardrank.models.decoding import decode
from hardrank.models.image_listing import ImageProblemKind
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import ImageList, list_images
from hardrank.serving.ingest.indexer import IngestError, IngestOptions, add_images
from hardrank.serving.ingest.prune import PruneError, prune
from hardrank.serving.store.errors import WrongModelError
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import IndexManifest
from tests.models.profiles import ADOBE_CURVE, ADOBE_RGB, P3, SRGB_CURVE, rgb_profile, with_profile
from tests.serving.pictures import write_gallery, write_picture
from tests.waiting import PATIENCE_S

SMALL = IngestOptions(batch=4, commit=5, decoders=2)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return write_gallery(tmp_path / "images", labels=4, each=6)


@pytest.fixture
def filled(tmp_path: Path, engine: Engine) -> SearchIndex:
    return SearchIndex.create(tmp_path / "filled", manifest=IndexManifest.of(engine))


def test_items_have_the_embeddings_of_their_images(gallery: Path, filled: SearchIndex, engine: Engine) -> None:
    listing = list_images(gallery)
    outcome = add_images(filled, engine, listing, options=SMALL)
    assert (outcome.added, outcome.replaced, outcome.unchanged, outcome.problems) == (24, 0, 0, ())
    assert filled.ids() == [entry.id for entry in listing.entries]
    for entry in listing.entries:
        data = entry.path.read_bytes()
        item = filled.item(entry.id)
        assert (item.label, item.width, item.height) == (entry.label, 48, 40)
        expected = engine.embed(engine.prepare(data)[None])[0]
        np.testing.assert_allclose(filled.vector(entry.id), expected, atol=1e-6)
        assert filled.original(entry.id) == data
        assert decode(filled.thumbnail(entry.id)).size == (48, 40)


@pytest.mark.parametrize(("side_by_side", "method"), [(False, "embed"), (True, "embed_in_one_thread")])
def test_two_batches_are_embedded_at_once(
    gallery: Path,
    filled: SearchIndex,
    benign_bundle: Path,
    side_by_side: bool,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(benign_bundle, threads=2, side_by_side=side_by_side)
    two, embed = threading.Barrier(2, timeout=PATIENCE_S), getattr(engine, method)

    def together(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        two.wait()
        vectors: npt.NDArray[np.float32] = embed(pixels)
        return vectors

    monkeypatch.setattr(engine, method, together)
    assert add_images(filled, engine, list_images(gallery), options=SMALL).added == 24


def test_size_of_a_jpeg_that_is_decoded_at_half_size_is_that_of_the_original(
    tmp_path: Path, filled: SearchIndex, engine: Engine
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.effect_noise((120, 80), 60).save(images / "large.jpg")
    options = replace(SMALL, limits=DecodeLimits(max_pixels=120 * 80 - 1))
    assert add_images(filled, engine, list_images(images), options=options).added == 1
    item = filled.item("large.jpg")
    assert (item.width, item.height) == (120, 80)


def test_a_file_with_a_wide_gamut_has_the_embedding_of_its_srgb_twin(
    tmp_path: Path, filled: SearchIndex, engine: Engine
) -> None:
    """Indexed and as a query: the colors are the same, the bytes of the pixels are not."""
    images = tmp_path / "images"
    images.mkdir()
    profiles = {"p3": rgb_profile(P3, SRGB_CURVE), "adobe": rgb_profile(ADOBE_RGB, ADOBE_CURVE)}
    picture = Image.effect_noise((48, 40), 60).convert("RGB").resize((96, 80))
    picture = Image.merge(
        "RGB", (picture.getchannel(0), picture.getchannel(1).rotate(180), Image.new("L", (96, 80), 90))
    )
    picture.save(images / "srgb.png")
    for name, profile in profiles.items():
        wide = with_profile(picture, profile)
        assert np.abs(np.asarray(wide, dtype=int) - np.asarray(picture, dtype=int)).max() > 20
        wide.save(images / f"{name}.png", icc_profile=profile)
    add_images(filled, engine, list_images(images), options=SMALL)
    srgb = filled.vector("srgb.png")
    for name in profiles:
        assert filled.vector(f"{name}.png") @ srgb >= 0.999
        query = engine.embed(engine.prepare((images / f"{name}.png").read_bytes())[None])[0]
        assert query @ srgb >= 0.999


def test_an_interrupted_call_continues(gallery: Path, filled: SearchIndex, engine: Engine) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 17:
            raise KeyboardInterrupt

    listing = list_images(gallery)
    with pytest.raises(KeyboardInterrupt):
        add_images(filled, engine, listing, options=SMALL, progress=interrupt)
    there = filled.size
    assert 0 < there < 24
    outcome = add_images(filled, engine, listing, options=SMALL)
    assert (outcome.added, outcome.unchanged) == (24 - there, there)
    assert sorted(filled.ids()) == sorted(entry.id for entry in listing.entries)


def test_changed_images_are_replaced(gallery: Path, filled: SearchIndex, engine: Engine) -> None:
    listing = list_images(gallery)
    add_images(filled, engine, listing, options=SMALL)
    changed = write_picture(gallery / "class-1" / "1.png", seed=999)
    relabeled = replace(listing.entries[0], label="other", metadata={"note": "x"})
    again = ImageList(entries=[relabeled, *listing.entries[1:]])
    outcome = add_images(filled, engine, again, options=SMALL)
    assert (outcome.added, outcome.replaced, outcome.unchanged) == (0, 2, 22)
    expected = engine.embed(engine.prepare(changed.read_bytes())[None])[0]
    np.testing.assert_allclose(filled.vector("class-1~1.png"), expected, atol=1e-6)
    assert filled.item(relabeled.id).label == "other"
    assert filled.size == 24


def test_a_moved_folder_is_indexed_at_its_new_path(gallery: Path, filled: SearchIndex, engine: Engine) -> None:
    add_images(filled, engine, list_images(gallery), options=SMALL)
    generation = filled.generation
    moved = gallery.rename(gallery.with_name("moved"))
    assert filled.original("class-0~0.jpg") is None
    outcome = add_images(filled, engine, list_images(moved), options=SMALL)
    assert (outcome.added, outcome.replaced, outcome.unchanged, outcome.moved) == (0, 0, 24, 24)
    for entry in list_images(moved).entries:
        assert filled.original(entry.id) == entry.path.read_bytes()
    assert filled.generation == generation
    assert add_images(filled, engine, list_images(moved), options=SMALL).moved == 0


def test_prune_deletes_items_whose_files_are_gone(gallery: Path, filled: SearchIndex, engine: Engine) -> None:
    add_images(filled, engine, list_images(gallery), options=SMALL)
    filled.add([NewItem(id="uploaded", vector=filled.vector("class-0~0.jpg"), source_sha256="0" * 64)])
    for name in ("class-0/0.jpg", "class-3/1.png"):
        (gallery / name).unlink()
    assert prune(filled) == 2
    assert filled.size == 23
    assert not {"class-0~0.jpg", "class-3~1.png"} & set(filled.ids())
    assert "uploaded" in filled.ids()
    assert prune(filled) == 0
    gallery.rename(gallery.with_name("moved"))
    with pytest.raises(PruneError, match="mounted"):
        prune(filled)
    assert filled.size == 23


@pytest.mark.parametrize("mount_point_stays", [True, False])
def test_prune_keeps_the_items_of_a_folder_of_which_nothing_is_left(
    gallery: Path, filled: SearchIndex, engine: Engine, tmp_path: Path, mount_point_stays: bool
) -> None:
    """A disk that is not mounted leaves an empty folder or none, while the galleries on other disks are there."""
    disk = tmp_path / "disk"
    add_images(filled, engine, list_images(gallery), options=SMALL)
    write_gallery(disk / "photos", labels=2, each=3)
    second = list_images(disk).entries
    named = [replace(entry, id=f"product-{number}") for number, entry in enumerate(second[:3])]
    add_images(filled, engine, ImageList(entries=[*named, *second[3:]]), options=SMALL)
    assert filled.size == 30
    (gallery / "class-0" / "0.jpg").unlink()
    disk.rename(tmp_path / "elsewhere")
    if mount_point_stays:
        disk.mkdir()
    with pytest.raises(PruneError, match=re.escape(f"left in {disk}")):
        prune(filled)
    assert filled.size == 30
    assert prune(filled, gone_for_good=[disk]) == 7
    assert filled.size == 23


def test_prune_deletes_a_class_folder_but_keeps_an_emptied_one_and_a_moved_gallery(
    gallery: Path, filled: SearchIndex, engine: Engine, tmp_path: Path
) -> None:
    """The moved gallery lies beside another one, so that a folder above both still has files."""
    write_gallery(tmp_path / "beside", labels=1, each=2)
    listing = tmp_path / "list.csv"
    listing.write_text("path,id\nbeside/class-0/0.jpg,one\nbeside/class-0/1.png,two\n")
    add_images(filled, engine, list_images(gallery), options=SMALL)
    add_images(filled, engine, list_images(listing), options=SMALL)
    shutil.rmtree(gallery / "class-1")
    assert prune(filled) == 6
    for moved in (gallery, tmp_path / "beside"):
        moved.rename(tmp_path / "moved")
        with pytest.raises(PruneError, match=re.escape(str(moved))):
            prune(filled)
        (tmp_path / "moved").rename(moved)
    for path in (gallery / "class-2").iterdir():
        path.unlink()
    with pytest.raises(PruneError, match="class-2"):
        prune(filled)
    assert filled.size == 20


def test_prune_deletes_nothing_if_a_file_cannot_be_looked_at(
    gallery: Path, filled: SearchIndex, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_images(filled, engine, list_images(gallery), options=SMALL)
    (gallery / "class-0" / "0.jpg").unlink()
    failing = gallery / "class-3" / "1.png"
    stat = Path.stat

    def fail(path: Path, **options: bool) -> os.stat_result:
        if path == failing:
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(PruneError, match=r"1\.png cannot be looked at"):
        prune(filled)
    assert filled.size == 24


def test_prune_leaves_what_changed_meanwhile(gallery: Path, filled: SearchIndex, engine: Engine) -> None:
    """A server that uses the index deletes one of the listed items, and takes an upload in place of another."""
    add_images(filled, engine, list_images(gallery), options=SMALL)
    listed = filled.list_items(count=3)
    vector = filled.vector(listed[0].id)
    filled.delete([listed[0].id, listed[1].id])
    filled.add([NewItem(id=listed[1].id, vector=vector, source_sha256="0" * 64)])
    assert filled.delete_listed(listed) == 1
    assert listed[1].id in filled.ids()
    assert filled.size == 22


def test_bad_files_are_named_and_left_out(gallery: Path, filled: SearchIndex, engine: Engine) -> None:
    (gallery / "class-0" / "empty.jpg").write_bytes(b"")
    (gallery / "class-0" / "text.png").write_text("no image")
    whole = (gallery / "class-0" / "0.jpg").read_bytes()
    (gallery / "class-0" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (gallery / "class-0" / "gone.jpg").write_bytes(whole)
    listing = list_images(gallery)
    (gallery / "class-0" / "gone.jpg").unlink()
    outcome = add_images(filled, engine, listing, options=SMALL)
    assert outcome.added == 24
    assert {(Path(one.path).name, one.kind) for one in outcome.problems} == {
        ("empty.jpg", ImageProblemKind.UNREADABLE),
        ("text.png", ImageProblemKind.UNREADABLE),
        ("torn.jpg", ImageProblemKind.UNREADABLE),
        ("gone.jpg", ImageProblemKind.MISSING),
    }


def test_another_models_index_is_refused(gallery: Path, filled: SearchIndex, robust_engine: Engine) -> None:
    with pytest.raises(WrongModelError, match=r"belongs to the model tiny-benign .* not to tiny-robust"):
        add_images(filled, robust_engine, list_images(gallery))


def test_invalid_options_are_refused() -> None:
    with pytest.raises(IngestError, match="batch is 0"):
        IngestOptions(batch=0)
