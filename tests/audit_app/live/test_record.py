"""Records of live attacks: replayed to the same pixels, and refused if invalid."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardrank.audit_app.errors import GalleryError
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.gallery.source import GallerySource, SourceKind
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.images.transforms import TransformOptions
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.record import LiveRecord, ReplayError, read_record, record
from hardrank.audit_app.live.replay import replay
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.replay import main
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions
from tests.audit_app.galleries import OPTIONS, random_pixels
from tests.waiting import PATIENCE_S


def recorded(
    served: list[ServedGallery],
    gratings: Path,
    victim: Victim,
    *,
    loading: SubjectOptions | None = None,
    **options: Any,
) -> tuple[LiveAttack, LiveRecord]:
    live = LiveAttack(served, victim, LiveOptions(k=5, **options))
    live.start()
    status = live.wait(PATIENCE_S)
    assert status.result, status.message
    content = record(live, status.result, GallerySource.at(str(gratings)), loading=loading)
    return live, read_record(content.to_json().encode())


@pytest.mark.parametrize("image", ["item", "file"])
def test_a_replay_gives_the_same_pixels_and_ranks(served: list[ServedGallery], gratings: Path, image: str) -> None:
    ids = served[0].gallery.ids
    victim = (
        Victim(id=ids[7]) if image == "item" else Victim(data=encode_png(random_pixels(3, 50, 41)), label="class-1")
    )
    engine = AttackOptions(steps=4, engine=AttackEngine.APGD, random_start=True, restarts=2, epsilon=5.5 / 255)
    live, content = recorded(
        served,
        gratings,
        victim,
        attack="SPQA+",
        settings={"m": 2, "kept": 3},
        engine=engine,
        seed=11,
        targets=(ids[20], ids[33]),
        transform=TransformOptions(jpeg_quality=61),
    )
    again = replay(content)
    assert again.differences == ()
    assert again.live.options == live.options
    first = live.status().result
    assert first
    for name, found in first.subjects.items():
        assert again.result.subjects[name].png == found.png
        assert content.results[name].png_sha256 == hashlib.sha256(found.png).hexdigest()


def test_a_replayed_black_box_attack_asks_the_same_queries(stranger: ServedGallery, gratings: Path) -> None:
    victim, loading = Victim(id=stranger.gallery.ids[7]), replace(OPTIONS, resize=36)
    _, content = recorded([stranger], gratings, victim, loading=loading, attack="ES", search={"queries": 30})
    again = replay(content)
    assert again.differences == ()
    assert again.result.subjects["stranger"].queries == content.results["stranger"].queries


def test_differences_are_named(served: list[ServedGallery], gratings: Path) -> None:
    _, content = recorded(served, gratings, Victim(id=served[0].gallery.ids[7]), engine=AttackOptions(steps=2))
    differences = replay(content.model_copy(update={"seed": 5})).differences
    assert differences
    assert "tiny-benign: targets was" in differences[0]


def test_other_models_and_galleries_are_refused(
    served: list[ServedGallery], gratings: Path, tiny_zoo: list[Path], tmp_path: Path
) -> None:
    _, content = recorded(served, gratings, Victim(id=served[0].gallery.ids[7]), engine=AttackOptions(steps=1))
    with pytest.raises(ReplayError, match="is not the model tiny-benign"):
        replay(content, models=[str(tiny_zoo[1]), str(tiny_zoo[0])])
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encode_png(random_pixels(3, 20, 20, seed=len(name))))
    with pytest.raises(ReplayError, match="does not hold the images"):
        replay(content, gallery=GallerySource.at(str(tmp_path)))


def saved(**changes: Any) -> dict[str, Any]:
    """A valid record as JSON, with some keys replaced; None removes a key."""
    outcome = {"ranks_before": [5], "ranks_after": [1], "top_k_overlap": 0.5, "distance": 0.1, "cosine": 0.9}
    result = {
        **outcome,
        "prepared_sha256": "0" * 64,
        "png_sha256": "0" * 64,
        "targets": ["a"],
        "tracked": [{"query": "a", "item": "b"}],
        "change_255ths": 8.0,
        "queries": None,
        "figures": {"QA+": 1.5},
        "figures_before": {"QA+": 50.0},
        "survival": {"png": {**outcome, "figures": {"QA+": 1.5}}},
    }
    content = {
        "schema_version": "hardrank.live/1",
        "created": "2026-01-01T00:00:00+00:00",
        "models": [{"name": "m", "source": "zoo/m", "sha256": "0" * 64, "precision": "float32"}],
        "loading": {"device": "cpu", "threads": 1},
        "gallery": {"kind": "images", "paths": ["photos"], "name": "images of photos", "size": 9, "sha256": "0" * 64},
        "image": {"id": "a"},
        "attack": {"name": "QA+", "settings": {"m": 1}},
        "engine": {"epsilon": 0.03, "steps": 8, "norm": "linf", "engine": "pgd"},
        "targets": None,
        "seed": 0,
        "k": 10,
        "treatment": {"jpeg_quality": 90, "resize_percent": 50},
        "threads": 1,
        "method": {"name": "auto", "search": {}, "surrogate": None},
        "stopped": False,
        "results": {"m": result},
        "transfer": [],
        "versions": {"torch": "2.5"},
        **changes,
    }
    return {key: value for key, value in content.items() if key not in changes or value is not None}


def test_a_record_with_the_keys_of_the_first_version_is_read() -> None:
    found = read_record(
        json.dumps(saved(loading=None, treatment=None, threads=None, method=None, transfer=None)).encode()
    )
    assert found.options() == LiveOptions(settings={"m": 1}, engine=AttackOptions(epsilon=0.03, steps=8))
    assert read_record(found.to_json().encode()) == found


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"models": [{}]}, r"models\.0\.name"),
        ({"models": 3}, "models"),
        ({"models": []}, "models"),
        ({"models": saved()["models"] * 2}, "1 entries for 2 models"),
        ({"models": saved()["models"] * 17}, "models"),
        ({"models": [{**saved()["models"][0], "sha256": "x"}]}, r"models\.0\.sha256"),
        ({"gallery": {"kind": "cloud", "paths": ["a"], "sha256": "0" * 64}}, r"gallery\.kind"),
        ({"image": {}}, "either id or data"),
        ({"image": {"data": "%"}}, "not base64"),
        ({"attack": {"name": "QB", "settings": {}}}, "QB"),
        ({"attack": {"name": "QA+", "settings": {"m": [1]}}}, r"attack\.settings\.m"),
        ({"engine": {"steps": "many"}}, r"engine\.steps"),
        ({"engine": {"steps": -3}}, "steps"),
        ({"loading": {"device": "abacus"}}, r"loading\.device"),
        ({"treatment": {"jpeg_quality": 1000}}, "1000"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"k": 0}, "k"),
        ({"threads": 10**9}, "threads"),
        ({"results": {"m": {}}}, r"results\.m"),
        ({"schema_version": "hardrank.live/2"}, "hardrank.live/1"),
        ({"attack": None}, "attack"),
        ({"comment": "hello"}, "comment"),
        ({"stopped": True}, "stopped early"),
    ],
)
def test_invalid_records_are_refused_with_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ReplayError, match=field):
        read_record(json.dumps(saved(**changes)).encode()).options()


@pytest.mark.parametrize("data", [b"{", b"[]", b"3", b"null", b"\xff", b"", b"[" * 100_000, b'{"models": [{}]}'])
def test_files_that_are_not_records_are_refused(data: bytes) -> None:
    with pytest.raises(ReplayError, match="invalid record"):
        read_record(data)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in inner for found in places(one, (*path, key)))]


@given(st.sampled_from(places(saved())[1:]), anything)
def test_a_record_with_any_value_anywhere_is_read_or_refused(path: tuple[str | int, ...], value: Any) -> None:
    content: Any = saved()
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        found = read_record(json.dumps(content).encode())
        found.options()
        found.image.victim()
        found.gallery.source()
    except ReplayError:
        return
    assert read_record(found.to_json().encode()) == found


def test_the_command(
    served: list[ServedGallery], gratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, content = recorded(served, gratings, Victim(id=served[0].gallery.ids[7]), engine=AttackOptions(steps=2))
    file = tmp_path / "attack.json"
    file.write_text(content.to_json(), encoding="utf-8")
    assert main([str(file), "--out", str(tmp_path / "out")]) == 0
    done = capsys.readouterr()
    assert "the same images" in done.out
    assert done.err == ""
    for name, found in content.results.items():
        data = (tmp_path / "out" / f"{name}.png").read_bytes()
        assert hashlib.sha256(data).hexdigest() == found.png_sha256
    assert main([str(tmp_path / "nothing.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said


def test_places_are_recognised(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    assert GallerySource.at(str(gratings)).kind is SourceKind.IMAGES
    assert GallerySource.at(str(tiny_zoo[0])).kind is SourceKind.RUN
    (tmp_path / "index.json").write_text("{}", encoding="utf-8")
    assert GallerySource.at(str(tmp_path), str(tmp_path)).kind is SourceKind.INDEX
    with pytest.raises(GalleryError, match="does not exist"):
        GallerySource.at(str(tmp_path / "nowhere"))
    with pytest.raises(GalleryError, match="must all be indexes"):
        GallerySource.at(str(gratings), str(gratings))
