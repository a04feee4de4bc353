"""A recorded attack runs again to the same pixels."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardrank.audit_app.errors import GalleryError
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.gallery.source import GallerySource, SourceKind
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.images.transforms import TransformOptions
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.replay import ReplayError, read_record, record, replay
from hardrank.trainer.attacks.runner import AttackOptions, Engine
from tests.audit_app.stage import OPTIONS, random_pixels, serve_galleries
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]


def recorded(
    served: list[ServedGallery], gratings: Path, victim: Victim, **options: Any
) -> tuple[LiveAttack, dict[str, Any]]:
    live = LiveAttack(served, victim, LiveOptions(k=5, **options))
    live.start()
    status = live.wait(PATIENCE_S)
    assert status.result, status.message
    content = record(live, status.result, GallerySource.at(str(gratings)))
    return live, read_record(json.dumps(content).encode())


@pytest.mark.parametrize("image", ["item", "file"])
def test_the_same_pixels_and_ranks_come_out(served: list[ServedGallery], gratings: Path, image: str) -> None:
    ids = served[0].gallery.ids
    victim = (
        Victim(id=ids[7]) if image == "item" else Victim(data=encode_png(random_pixels(3, 50, 41)), label="class-1")
    )
    engine = AttackOptions(steps=4, engine=Engine.APGD, random_start=True, restarts=2, epsilon=5.5 / 255)
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
        assert content["results"][name]["png_sha256"] == hashlib.sha256(found.png).hexdigest()


def test_a_black_box_attack_asks_the_same_questions(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    file = tmp_path / "stranger.onnx"
    file.write_bytes((tiny_zoo[1] / "model.onnx").read_bytes())
    (stranger,) = serve_galleries([file], gratings, resize=40)
    victim = Victim(id=stranger.gallery.ids[7])
    live = LiveAttack([stranger], victim, LiveOptions(attack="ES", search={"queries": 30}, k=5))
    live.start()
    result = live.wait(PATIENCE_S).result
    assert result
    content = record(live, result, GallerySource.at(str(gratings)), loading=replace(OPTIONS, resize=40))
    again = replay(read_record(json.dumps(content).encode()))
    assert again.differences == ()
    assert again.result.subjects["stranger"].queries == result.subjects["stranger"].queries


def test_what_came_out_otherwise_is_named(served: list[ServedGallery], gratings: Path) -> None:
    _, content = recorded(served, gratings, Victim(id=served[0].gallery.ids[7]), engine=AttackOptions(steps=2))
    content["seed"] = 5
    differences = replay(content).differences
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
    with pytest.raises(ReplayError, match="stopped by hand"):
        replay({**content, "stopped": True})
    with pytest.raises(ReplayError, match="options cannot be read"):
        replay({**content, "engine": {"steps": "many"}})


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"{", "no JSON"), (b"[]", "schema None"), (b'{"schema_version": "hardrank.live/1"}', "lacks attack")],
)
def test_what_is_no_record_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(ReplayError, match=told):
        read_record(data)


def test_the_command(served: list[ServedGallery], gratings: Path, tmp_path: Path) -> None:
    _, content = recorded(served, gratings, Victim(id=served[0].gallery.ids[7]), engine=AttackOptions(steps=2))
    file = tmp_path / "attack.json"
    file.write_text(json.dumps(content), encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "audit_app/replay.py", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    done = run(str(file), "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "the same images" in done.stdout
    for name, found in content["results"].items():
        data = (tmp_path / "out" / f"{name}.png").read_bytes()
        assert hashlib.sha256(data).hexdigest() == found["png_sha256"]
    wrong = run(str(tmp_path / "nothing.json"))
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")
    assert "Traceback" not in wrong.stderr


def test_places_are_recognised(tiny_zoo: list[Path], gratings: Path, tmp_path: Path) -> None:
    assert GallerySource.at(str(gratings)).kind is SourceKind.IMAGES
    assert GallerySource.at(str(tiny_zoo[0])).kind is SourceKind.RUN
    (tmp_path / "index.json").write_text("{}", encoding="utf-8")
    source = GallerySource.at(str(tmp_path), str(tmp_path))
    assert (source.kind, GallerySource.from_dict(source.to_dict())) == (SourceKind.INDEX, source)
    with pytest.raises(GalleryError, match="is not there"):
        GallerySource.at(str(tmp_path / "nowhere"))
    with pytest.raises(GalleryError, match="must all be indexes"):
        GallerySource.at(str(gratings), str(gratings))
    with pytest.raises(GalleryError, match="kind and paths"):
        GallerySource.from_dict({"kind": "cloud"})
