"""The live attack page, without a browser."""

import base64
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image
from streamlit import config
from streamlit.testing.v1 import AppTest

from hardrank.audit_app.drawing.live_panel import live_panel
from hardrank.audit_app.drawing.thumbnail import thumbnail_uri
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.options import STRONG_RESTARTS, LiveOptions
from hardrank.audit_app.live.record import read_record
from hardrank.audit_app.live.replay import replay
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.web import attack_view, result_view
from hardrank.audit_app.web.option_fields import comparable_budget
from hardrank.audit_app.web.result_view import attempt_name
from hardrank.audit_app.web.server_check import check_server
from hardrank.audit_app.web.settings import settings
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.manifest import IndexManifest
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS
from hardrank.trainer.attacks.runner import AttackEngine
from tests.audit_app.apptest import APP, attacked, errors, markup, open_app, panels, until, words
from tests.audit_app.galleries import random_pixels
from tests.serving.conftest import new_items, unit_vectors
from tests.waiting import PATIENCE_S

Tell = Callable[..., None]
pytestmark = pytest.mark.usefixtures("app")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[LiveAttack]:
    """The attacks that the page starts."""
    found: list[LiveAttack] = []

    class Seen(LiveAttack):
        def start(self) -> None:
            found.append(self)
            super().start()

    monkeypatch.setattr(attack_view, "LiveAttack", Seen)
    monkeypatch.setattr(result_view, "LiveAttack", Seen)
    return found


def test_the_page_starts_with_an_attack_that_is_ready_to_run() -> None:
    at = open_app()
    assert not errors(at)
    assert at.button(key="attack").proto.type == "primary"
    assert at.selectbox(key="live.attack").value == "QA+"
    assert at.slider(key="live.epsilon.linf").value == 4
    assert ATTACKS["QA+"].story.format(target="the one beside it") in markup(at)
    assert "No pixel value changes by more than 4 of 255" in markup(at)
    assert "Answers before the attack" in words(at)


def test_an_attack_runs_and_shows_its_result(started: list[LiveAttack]) -> None:
    at = attacked(open_app())
    assert not errors(at)
    (live,) = started
    result = live.status().result
    assert result
    assert list(result.subjects) == ["tiny-benign", "tiny-robust"]
    drawn = markup(at)
    for found in result.subjects.values():
        assert f"rank {found.outcome.movements[0].before[found.targets[0]]} →" in drawn
        for pixels in (found.pixels, found.benign):  # the very pixels, as PNG
            assert base64.b64encode(encode_png(pixels)).decode() in drawn
    for word in ("first answers kept", "rank of the target", "made against", "JPEG, quality 90", "noise"):
        assert word in drawn
    assert len(at.get("download_button")) == 3


def test_downloads_are_the_exact_png_and_a_record_that_replays(
    started: list[LiveAttack], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: dict[str, Any] = {}

    def download_button(label: str, data: Any, *, file_name: str, **_: Any) -> bool:
        offered[file_name] = data
        return False

    monkeypatch.setattr("hardrank.audit_app.web.result_view.st.download_button", download_button)
    attacked(open_app())
    result = started[0].status().result
    assert result
    live = started[0]
    assert live.victim.id is not None
    assert live.options.targets is not None
    attempt = f"QA-plus-{live.victim.id}-to-{live.options.targets[0]}".replace("~", "-")
    for name, found in result.subjects.items():
        assert hashlib.sha256(offered[f"{name}-{attempt}.png"]).hexdigest() == hashlib.sha256(found.png).hexdigest()
    again = replay(read_record(offered[f"tiny-benign-tiny-robust-{attempt}.json"].encode()))
    assert again.differences == ()


def test_opposite_attacks_have_different_file_names() -> None:
    def name(attack: str, *targets: str) -> str:
        options = LiveOptions(attack=attack, settings={"m": len(targets)} if targets else {}, targets=targets or None)
        live = SimpleNamespace(options=options, attack=options.build(), victim=Victim(id="a/1.png"))
        return attempt_name(cast(LiveAttack, live))

    assert name("QA+", "b/2.png") == "QA-plus-a-1.png-to-b-2.png"
    assert name("QA-", "b/2.png", "c", "d") == "QA-minus-a-1.png-to-b-2.png-and-2-more"
    assert name("CA+") == "CA-plus-a-1.png-to-drawn"
    assert name("ES") == "ES-a-1.png"


@pytest.mark.parametrize("name", ["CA+", "QA-", "TMA", "ES", "LTM", "GTM", "GTT", "SPQA+", "ORDER"])
def test_every_attack_can_be_chosen(name: str, started: list[LiveAttack]) -> None:
    at = open_app()
    at.selectbox(key="live.attack").set_value(name).run()
    assert not errors(at)
    if name == "QA-":
        at.number_input(key="live.QA-.share").set_value(0.2).run()
        at.run()
    setup = next(one for one in panels(at) if 'class="setup"' in one)
    attacked(at)
    assert not errors(at)
    assert started[0].options.attack == name
    assert started[0].options.targets is None
    result = started[0].status().result
    assert result
    for served in started[0].served:  # the targets that the page showed before
        for row in result.subjects[served.name].targets:
            assert thumbnail_uri(served.picture(row), 96) in setup
    if name == "ORDER":
        assert all(f"<b>rank {rank}</b>" in setup for rank in range(1, 6))


def test_targets_are_picked_or_drawn_from_the_seed(started: list[LiveAttack]) -> None:
    at = open_app()
    first = first_target(at)
    at.button(key="choose-targets").click().run()
    shown = pickable(at)
    assert len(shown) > 10
    picked = [row for row in shown if row != first][:2]
    for count, row in enumerate(picked, start=2):
        at.button(key=f"target-{row}").click().run()
        assert pickable(at) == shown, "the grid does not move"
        assert f"{count} targets chosen" in words(at)
    styles = " ".join(one.proto.body for one in at.get("html"))
    assert styles.count("outline:3px") == 3
    at.button(key="targets-done").click().run()
    attacked(at)
    rows = next(iter(started[0].status().result.subjects.values())).targets  # type: ignore[union-attr]
    assert set(rows) == {first, *picked}
    assert started[0].options.settings["m"] == 3
    at.button(key="choose-targets").click().run()
    at.button(key="targets-drawn").click().run()
    at.button(key="targets-done").click().run()
    attacked(at)
    assert started[1].options.targets is None


def pickable(at: AppTest) -> list[int]:
    """Return the rows of the images in the dialog, in order."""
    keys = [str(button.key).removeprefix("target-") for button in at.button if str(button.key).startswith("target-")]
    return [int(key) for key in keys if key.isdigit()]


def test_a_stronger_attack_is_compared_with_the_standard_one(started: list[LiveAttack]) -> None:
    at = attacked(open_app())
    standard = started[0].status().result
    assert standard
    assert all(f"{name}: <b class=" in markup(at) for name in standard.subjects)
    assert "fooled" in markup(at) or "held" in markup(at)
    at.button(key="stronger").click().run()
    until(at, lambda page: "standard → strong" in markup(page))
    strong = started[1]
    assert (strong.options.engine.engine, strong.options.engine.restarts) == (AttackEngine.APGD, STRONG_RESTARTS)
    assert strong.victim == started[0].victim
    assert strong.options.targets == started[0].options.targets
    assert not [button for button in at.button if button.key == "stronger"]


def test_running_and_finished_attacks_count_alike(started: list[LiveAttack]) -> None:
    attacked(open_app())
    status = started[0].status()
    assert status.result
    shown = live_panel(status, started[0].options.engine, ranked=23, watched="rank of the target")
    for name, found in status.result.subjects.items():
        last = status.curves[name][-1]
        assert (last.ranks, last.kept) == (found.outcome.ranks_after, found.outcome.kept)
        assert f"<b>{found.outcome.kept[0]}</b> <small>of {found.outcome.kept[1]}</small>" in shown
        assert f"<b>{found.outcome.ranks_before[0]} → {last.ranks[0]}</b> <small>of 23</small>" in shown


def first_target(at: AppTest) -> int:
    """Return the row of the target that the page starts with."""
    (target,) = at.session_state["chosen_images"].targets["QA+"]
    return from_images(Path(settings().gallery[0])).row(target)


def test_another_image_of_the_gallery_is_attacked(started: list[LiveAttack]) -> None:
    at = open_app()
    at.button(key="choose-image").click().run()
    at.selectbox(key="image.class").set_value("class-5").run()
    button = [b for b in at.button if str(b.key).startswith("image-")][-1]
    button.click().run()
    attacked(at)
    row = int(str(button.key).removeprefix("image-"))
    assert started[0].victim.id == started[0].served[0].gallery.ids[row]
    assert started[0].served[0].gallery.label(row) == "class-5"


def test_an_uploaded_image_is_attacked_unchanged(started: list[LiveAttack]) -> None:
    data = encode_png(random_pixels(3, 70, 50))
    at = open_app()
    at.button(key="choose-image").click().run()
    at.file_uploader(key="upload").set_value(("mine.png", data, "image/png")).run()
    at.selectbox(key="upload.class").set_value("class-3").run()
    at.button(key="upload.take").click().run()
    assert "uploaded" in markup(at)
    attacked(at)
    assert not errors(at)
    assert (started[0].victim.data, started[0].victim.label) == (data, "class-3")


def test_an_unreadable_upload_is_reported() -> None:
    at = open_app()
    at.button(key="choose-image").click().run()
    at.file_uploader(key="upload").set_value(("mine.png", b"no image at all", "image/png")).run()
    assert any("format" in one for one in errors(at))


def test_stopping_shows_the_last_image() -> None:
    at = open_app()
    at.selectbox(key="live.attack").set_value("ES")
    at.number_input(key="live.steps").set_value(500)
    at.slider(key="live.pace").set_value(2).run()
    at.button(key="attack").click().run()
    until(at, lambda page: "of 500" in markup(page))
    assert at.button(key="attack").disabled
    at.button(key="stop").click().run()
    until(at, lambda page: "stopped early" in words(page))
    assert not errors(at)
    offered = [one.proto.label for one in at.get("download_button")]
    assert len(offered) == 2, "the images, and no JSON that cannot be replayed"


@pytest.mark.parametrize(
    ("option", "expected"),
    [("--zoo", "train one with"), ("--gallery", "does not exist"), ("--color", "options of the app: --color")],
)
def test_options_that_name_nothing_are_reported(app: Tell, option: str, expected: str, tmp_path: Path) -> None:
    app(option, str(tmp_path / "nowhere"))
    assert any(expected in one for one in errors(open_app()))


def test_a_damaged_bundle_is_reported_and_the_others_work(app: Tell, tiny_zoo: list[Path], tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    for bundle in tiny_zoo:
        (zoo / bundle.name).symlink_to(bundle)
    (zoo / "broken").mkdir()
    (zoo / "broken" / "card.json").write_text("{", encoding="utf-8")
    app("--zoo", str(zoo))
    at = open_app()
    assert [one for one in errors(at) if "broken/card.json is damaged" in one]
    assert not at.button(key="attack").disabled


def test_changed_weights_of_a_bundle_are_reported(app: Tell, tiny_zoo: list[Path], tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    (zoo / "tiny").mkdir(parents=True)
    for file in tiny_zoo[0].iterdir():
        (zoo / "tiny" / file.name).write_bytes(file.read_bytes())
    (zoo / "tiny" / "model.onnx").write_bytes(b"nothing")
    app("--zoo", str(zoo))
    assert any("does not match its card" in one for one in errors(open_app()))


def test_a_gallery_of_one_image_is_reported(app: Tell, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "only.png")
    app("--gallery", str(tmp_path / "only.csv"))
    (tmp_path / "only.csv").write_text("path,label\nonly.png,red\n", encoding="utf-8")
    assert any("no ranking to attack" in one for one in errors(open_app()))


def test_an_attack_that_needs_classes_is_reported(app: Tell, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(encode_png(random_pixels(3, 40, 40, seed=number)))
    app("--gallery", str(folder))
    at = open_app()
    at.selectbox(key="live.attack").set_value("LTM").run()
    attacked(at)
    assert any("one class" in one for one in errors(at))


def test_an_index_of_another_model_is_reported(app: Tell, tmp_path: Path, tiny_zoo: list[Path]) -> None:
    own = IndexManifest.of(Engine(tiny_zoo[0], threads=1, device=Device.CPU))
    manifest = own.model_copy(update={"model": "stranger", "model_sha256": "0" * 64})
    with SearchIndex.create(tmp_path / "index", manifest=manifest) as index:
        index.add(new_items(unit_vectors(5)))
    app("--gallery", str(tmp_path / "index"))
    assert any("made with the model stranger" in one for one in errors(open_app()))


def test_internal_errors_are_logged_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(attack_view, "chosen_images", broken)
    at = open_app()
    (message,) = errors(at)
    assert "secret" not in message
    assert "secret" in caplog.text


@pytest.mark.parametrize("address", [None, "0.0.0.0", "192.168.1.2", "example.org"])
def test_it_refuses_addresses_other_than_the_loopback(address: str | None) -> None:
    config.set_option("server.address", address)
    at = open_app()
    assert any(str(address or "all addresses") in one for one in errors(at))
    assert not at.button


def test_it_refuses_usage_statistics() -> None:
    config.set_option("browser.gatherUsageStats", True)
    with pytest.raises(AuditError, match="usage statistics are switched on"):
        check_server()


def test_another_norm_converts_the_budget_and_keeps_the_other_options() -> None:
    at = open_app()
    at.number_input(key="live.steps").set_value(7)
    at.number_input(key="live.restarts").set_value(2)
    at.selectbox(key="live.engine").set_value(AttackEngine.APGD)
    at.slider(key="live.epsilon.linf").set_value(4).run()
    at.selectbox(key="live.norm").set_value(Norm.L2).run()
    assert not errors(at)
    # 4/255 in each of the 3·32² values of an image
    assert at.number_input(key="live.epsilon.l2.l2").value == pytest.approx(4 / 255 * math.sqrt(3 * 32**2), abs=1e-6)
    kept = {"live.steps": 7, "live.restarts": 2}
    assert {key: at.number_input(key=key).value for key in kept} == kept
    assert at.selectbox(key="live.engine").value == AttackEngine.APGD
    at.number_input(key="live.epsilon.l2.l2").set_value(1.0).run()
    at.selectbox(key="live.norm").set_value(Norm.LINF).run()
    assert at.slider(key="live.epsilon.linf").value == pytest.approx(255 / math.sqrt(3 * 32**2), abs=0.05)


def test_budgets_of_both_norms_change_a_whole_image_alike() -> None:
    found = comparable_budget(4 / 255, side=64, before=Norm.LINF, after=Norm.L2)
    assert found == pytest.approx(1.74, abs=0.005)
    assert comparable_budget(found, side=64, before=Norm.L2, after=Norm.LINF) == pytest.approx(4 / 255, rel=1e-12)


def test_a_link_opens_the_same_attack(started: list[LiveAttack]) -> None:
    at = open_app()
    at.selectbox(key="live.attack").set_value("QA-").run()
    at.number_input(key="live.QA-.share").set_value(0.2)
    at.slider(key="live.epsilon.linf").set_value(6)
    at.slider(key="live.alpha.linf").set_value(2)
    at.number_input(key="live.seed").set_value(5)
    at.button(key="choose-targets").click().run()
    picked = pickable(at)[3]
    at.button(key=f"target-{picked}").click().run()
    at.button(key="targets-done").click().run()
    attacked(at)
    again = open_link({name: [value] if isinstance(value, str) else value for name, value in at.query_params.items()})
    assert not errors(again)
    attacked(again)
    one, other = started
    assert (one.victim, one.options) == (other.victim, other.options)
    assert one.options.settings["share"] == 0.2
    assert again.multiselect(key="selection.models").value == at.multiselect(key="selection.models").value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "/tmp/stranger"),
        ("attack", "XX"),
        ("steps", "100000"),
        ("engine", "magic"),
        ("norm", "l7"),
        ("seed", "-1"),
        ("image", "nowhere.png"),
    ],
)
def test_what_a_link_must_not_hold_is_reported_and_the_page_works(name: str, value: str) -> None:
    at = open_link({name: [value]})
    assert any(value in one for one in errors(at))
    assert not at.button(key="attack").disabled
    assert at.selectbox(key="live.attack").value == "QA+"


def open_link(parameters: dict[str, list[str]]) -> AppTest:
    """Open the live attack page with query parameters in its address."""
    at = AppTest.from_file(str(APP), default_timeout=PATIENCE_S)
    for name, values in parameters.items():
        at.query_params[name] = values
    return at.run()


def test_the_error_of_a_gallery_vanishes_when_the_next_one_loads(tmp_path: Path) -> None:
    at = open_app()
    gallery = at.text_input(key="selection.gallery").value
    at.text_input(key="selection.gallery").set_value(str(tmp_path / "nowhere")).run()
    assert errors(at)
    at.text_input(key="selection.gallery").set_value(gallery).run()
    assert not errors(at)
