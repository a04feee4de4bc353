"""Live attacks: frames while they run, the figures of the scorecard, results of the served model."""

import gc
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.blackbox.transfer import transfer_from
from hardrank.audit_app.errors import AuditError, SubjectError
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.images.exact_png import encode_png, pixels_hash
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.queue import AttackQueue
from hardrank.audit_app.live.result import LiveResult
from hardrank.audit_app.live.status import AttackBudget, AttackPhase, AttackStatus
from hardrank.audit_app.live.victim import Victim
from hardrank.models.preprocessing import to_unit
from hardrank.serving.engine import Device, Engine
from hardrank.trainer.attacks.attack import victims_in
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, make_attack
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions, run_attack
from hardrank.trainer.attacks.starts import random_starts
from tests.audit_app.galleries import random_pixels
from tests.waiting import PATIENCE_S


def finished(live: LiveAttack) -> AttackStatus:
    live.start()
    status = live.wait(PATIENCE_S)
    assert status.phase is AttackPhase.DONE, status.message
    return status


def result_of(live: LiveAttack) -> LiveResult:
    result = finished(live).result
    assert result
    return result


def attack(served: list[ServedGallery], id: str | None = None, **options: object) -> LiveAttack:
    wanted: dict[str, object] = {"attack": "QA+", "engine": AttackOptions(steps=4), "k": 5, **options}
    gallery = served[0].gallery
    return LiveAttack(served, Victim(id=id or gallery.ids[3]), LiveOptions(**wanted))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_gives_the_figures_of_the_scorecard(served: list[ServedGallery], name: str) -> None:
    one = served[0]
    settings = {"share": 0.2} if "-" in name else {}
    live = attack(served[:1], attack=name, settings=settings, seed=3)
    result = result_of(live)
    found = result.subjects[one.name]
    embedded, kind = one.embedded, make_attack(name, **settings)
    victims = victims_in(embedded.tensors, torch.tensor([3]))
    torch.set_num_threads(1)
    plain = run_attack(
        kind,
        embedded.subject.gradients,
        embedded.images(victims.own),
        victims,
        embedded.tensors,
        live.options.engine,
        seed=3,
    )
    # ε and α are whole 255ths, so the 8-bit image is the attack's own.
    assert np.array_equal(found.pixels, np.rint(plain.images[0].numpy() * 255).astype(np.uint8))
    assert found.targets == tuple(plain.targets[0].tolist())
    for figure, value in zip(kind.figures, plain.after[0].tolist(), strict=True):
        assert found.outcome.figures[figure.key] == pytest.approx(value, abs=2e-3 if not figure.unit else 4)


def test_frames_show_a_growing_perturbation_within_the_budget(served: list[ServedGallery]) -> None:
    live = attack(served, attack="ES", engine=AttackOptions(steps=6, epsilon=4 / 255, alpha=1 / 255))
    status = finished(live)
    for one in served:
        frames = live.keyframes(one.name)
        assert [frame.point.step for frame in frames] == list(range(7))
        assert [point.step for point in status.curves[one.name]] == list(range(7))
        benign = one.picture(3)
        assert np.array_equal(frames[0].image, benign)
        for step, frame in enumerate(frames):
            assert np.abs(frame.change).max() <= min(step, 4) / 255 + 1e-6
            assert np.array_equal(frame.image, np.rint((to_unit(benign) + frame.change) * 255).astype(np.uint8))
        assert frames[0].point.overlap == 1
        assert frames[-1].point.loss != frames[-1].point.loss
        assert status.frames[one.name] is frames[-1]


def test_ranks_of_a_frame_belong_to_its_image(served: list[ServedGallery]) -> None:
    live = attack(served[:1])
    result = result_of(live)
    one, found = served[0], result.subjects[served[0].name]
    (_, target), *_ = found.tracked
    for frame in live.keyframes(one.name):
        assert frame.point.ranks[0] == pytest.approx(rank_in(one, one.embed(frame.image), target), abs=1)


def rank_in(one: ServedGallery, point: np.ndarray, item: int) -> int:
    """Rank an item for a query at `point`, without the image 3 that is attacked, by counting."""
    cosines = one.matrix @ point
    return 1 + sum(1 for row in range(len(cosines)) if row != 3 and cosines[row] > cosines[item])


@pytest.mark.parametrize("minimizer", list(AttackEngine))
@pytest.mark.parametrize("random_start", [False, True])
def test_all_steps_of_engines_and_restarts_are_published(
    served: list[ServedGallery], minimizer: AttackEngine, random_start: bool
) -> None:
    engine = AttackOptions(steps=3, restarts=2, engine=minimizer, random_start=random_start)
    live = attack(served[:1], attack="ES", engine=engine)
    status = finished(live)
    assert [point.step for point in status.curves[served[0].name]] == list(range(7))
    assert status.budgets[served[0].name] == AttackBudget(most=6, counts_queries=False)


@pytest.mark.parametrize("random_start", [False, True])
def test_each_restart_shows_its_own_start(served: list[ServedGallery], random_start: bool) -> None:
    engine = AttackOptions(steps=3, restarts=3, random_start=random_start)
    live = attack(served[:1], attack="ES", engine=engine, seed=5)
    result = result_of(live)
    one, frames = served[0], live.keyframes(served[0].name)
    benign = to_unit(one.picture(3))
    images, ids = torch.from_numpy(benign)[None], torch.tensor([3])
    for restart in range(3):
        start = benign
        if restart or random_start:
            start = random_starts(images, engine, ids, seed=5, restart=restart)[0].numpy()
        np.testing.assert_allclose(frames[3 * restart].change, start - benign, atol=1e-7)
    (_, tracked), *_ = result.subjects[one.name].tracked
    for frame in frames[:-1]:
        rank = rank_in(one, one.embed_floats(benign + frame.change), tracked)
        assert frame.point.ranks[0] == pytest.approx(rank, abs=1)


def test_the_png_gives_the_same_result_when_served(served: list[ServedGallery], tiny_zoo: list[Path]) -> None:
    result = result_of(attack(served, attack="ES"))
    for one, bundle in zip(served, tiny_zoo, strict=True):
        found = result.subjects[one.name]
        engine = Engine(bundle, threads=1, device=Device.CPU)
        prepared = engine.prepare(found.png)
        assert pixels_hash(prepared) == pixels_hash(to_unit(found.pixels))
        assert found.prepared_sha256 == pixels_hash(found.pixels)
        point = engine.embed(prepared[None])[0]
        order = [row for row in np.argsort(-(one.matrix @ point), kind="stable").tolist() if row != 3]
        assert order[:5] == found.outcome.movements[0].top_after.tolist()


def test_each_model_is_shown_the_pngs_of_the_others(served: list[ServedGallery]) -> None:
    result = result_of(attack(served, attack="TMA", engine=AttackOptions(steps=8)))
    names = [one.name for one in served]
    assert set(result.transfer) == {(a, b) for a in names for b in names}
    for source in served:
        found = result.subjects[source.name]
        assert result.transfer[source.name, source.name] is found.outcome
        for target in served:
            point = target.embed_file(found.png)
            cosine = float(target.matrix[found.targets[0]] @ point)
            shown = result.transfer[source.name, target.name]
            assert shown.figures["TMA"] == pytest.approx(cosine, abs=1e-5)


def test_transforms_are_applied_to_the_benign_image_too(served: list[ServedGallery]) -> None:
    result = result_of(attack(served[:1], attack="ES", engine=AttackOptions(steps=8)))
    (found,) = result.subjects.values()
    assert list(found.survival) == ["png", "jpeg", "resize"]
    assert found.survival["png"].benign.shift == pytest.approx(0, abs=1e-3)
    assert found.survival["png"].outcome.figures == found.outcome.figures
    assert found.survival["resize"].benign.shift > 0
    assert found.outcome.shift > found.noise.shift
    assert found.unquantized.shift == pytest.approx(found.outcome.shift, abs=1e-4)
    assert found.change == 8


def test_chosen_targets_are_used(served: list[ServedGallery]) -> None:
    ids = served[0].gallery.ids
    live = attack(served, settings={"m": 2}, targets=(ids[40], ids[50]), engine=AttackOptions(steps=12))
    result = result_of(live)
    for found in result.subjects.values():
        assert found.targets == (40, 50)
        assert found.outcome.mean_rank_after < found.outcome.mean_rank_before


def test_an_uploaded_file_is_attacked_as_a_query_and_as_a_candidate(served: list[ServedGallery]) -> None:
    data = encode_png(random_pixels(3, 80, 60))
    for name, count in (("QA+", 64), ("CA+", 64), ("LTM", 64)):
        options = LiveOptions(attack=name, engine=AttackOptions(steps=3), k=5)
        result = result_of(LiveAttack(served, Victim(data=data, label="class-2"), options))
        for found in result.subjects.values():
            assert found.outcome.movements[0].ranked == count
    with pytest.raises(AuditError, match="not both"):
        Victim(id="a", data=data)


def test_an_attack_ends_at_its_goal(served: list[ServedGallery]) -> None:
    first = result_of(attack(served[:1], attack="ES", engine=AttackOptions(steps=0)))
    nearest = first.subjects[served[0].name].tracked[0][1]
    live = attack(served[:1], targets=(served[0].gallery.ids[nearest],), engine=AttackOptions(steps=500))
    status = finished(live)
    assert len(status.curves[served[0].name]) < 100
    assert status.result
    assert status.result.subjects[served[0].name].outcome.ranks_after == (1,)


def test_l2_budget_holds_in_the_file(served: list[ServedGallery]) -> None:
    engine = AttackOptions(steps=5, norm=Norm.L2, epsilon=0.5, alpha=0.2)
    result = result_of(attack(served[:1], attack="ES", engine=engine))
    (found,) = result.subjects.values()
    assert 0 < found.change <= 0.5 * 255


@pytest.mark.parametrize("method", [SearchMethod.AUTO, SearchMethod.NES, SearchMethod.SPSA, SearchMethod.SQUARE])
def test_a_model_without_gradients_is_queried_and_queries_are_counted(
    stranger: ServedGallery, method: SearchMethod
) -> None:
    options = LiveOptions(attack="ES", method=method, search={"queries": 60}, k=5)
    live = LiveAttack([stranger], Victim(id=stranger.gallery.ids[3]), options)
    status = finished(live)
    assert status.result
    found = status.result.subjects["stranger"]
    assert found.queries is not None
    assert 0 < found.queries <= 60
    assert status.budgets["stranger"] == AttackBudget(most=60, counts_queries=True)
    counts = [point.queries for point in status.curves["stranger"]]
    assert counts == sorted(counts)
    assert counts[-1] == found.queries
    first, *_, last = live.status().curves["stranger"][:-1]
    assert last.loss < first.loss
    assert found.change <= 8


def test_a_transfer_attack_does_not_query_the_model(served: list[ServedGallery], stranger: ServedGallery) -> None:
    transfer = transfer_from(served[0].subject, stranger.embedded)
    options = LiveOptions(attack="ES", method=SearchMethod.TRANSFER, engine=AttackOptions(steps=5), k=5)
    victim = Victim(id=stranger.gallery.ids[3])
    live = LiveAttack([stranger], victim, options, transfers={"stranger": transfer})
    white_box = result_of(attack(served[:1], attack="ES", engine=AttackOptions(steps=5)))
    found = result_of(live).subjects["stranger"]
    assert found.queries == 0
    # The surrogate is the very model, so transfer is as good as knowing the gradients, but for rounding.
    distance = white_box.subjects["tiny-benign"].outcome.shift
    assert found.outcome.shift == pytest.approx(distance, rel=0.1)
    assert live.keyframes("stranger")[-2].point.ranks[0] >= 1
    with pytest.raises(AuditError, match="needs a surrogate"):
        LiveAttack([stranger], victim, options)
    with pytest.raises(SubjectError, match="has no gradients"):
        LiveAttack([stranger], victim, LiveOptions(method=SearchMethod.WHITE_BOX))


def test_a_budget_of_zero_changes_nothing(served: list[ServedGallery]) -> None:
    result = result_of(attack(served[:1], engine=AttackOptions(steps=3, epsilon=0)))
    (found,) = result.subjects.values()
    assert np.array_equal(found.pixels, found.benign)
    assert (found.outcome.overlap, found.change) == (1, 0)


def test_a_stopped_attack_has_a_result(served: list[ServedGallery]) -> None:
    live = attack(served, attack="ES", engine=AttackOptions(steps=20_000), pace=50)
    live.start()
    while len(live.status().curves[served[0].name]) < 5:
        time.sleep(0.01)
    live.stop()
    status = live.wait(PATIENCE_S)  # all steps would take longer
    assert status.phase is AttackPhase.DONE
    assert status.stopped
    assert status.result
    assert status.result.stopped
    assert len(live.keyframes(served[0].name)) < 100


def test_an_abandoned_attack_frees_its_memory(served: list[ServedGallery]) -> None:
    live = attack(served, attack="ES", engine=AttackOptions(steps=10_000), pace=50)
    live.start()
    while served[0].name not in live.status().frames:  # the other model may be first
        time.sleep(0.01)
    frame = weakref.ref(live.status().frames[served[0].name])
    held = weakref.ref(live)
    live.abandon()
    assert live.wait(PATIENCE_S).phase is AttackPhase.ABANDONED
    del live
    gc.collect()
    assert held() is None
    assert frame() is None


def test_the_pace_is_kept_and_does_not_change_results(served: list[ServedGallery]) -> None:
    fast = finished(attack(served[:1], attack="ES"))
    slow = finished(attack(served[:1], attack="ES", pace=20))
    assert slow.seconds > 3 / 20
    assert fast.result
    assert slow.result
    one, other = (next(iter(r.subjects.values())) for r in (fast.result, slow.result))
    assert one.prepared_sha256 == other.prepared_sha256


def test_simultaneous_attacks_get_their_own_results(served: list[ServedGallery]) -> None:
    ids = served[0].gallery.ids
    wanted = [(ids[i], name, seed) for i, name, seed in ((1, "QA+", 0), (9, "ES", 1), (30, "CA+", 2), (44, "QA+", 3))]

    def make(id: str, name: str, seed: int, queue: AttackQueue | None = None) -> LiveAttack:
        options = LiveOptions(attack=name, seed=seed, engine=AttackOptions(steps=6), k=5)
        return LiveAttack(served, Victim(id=id), options, queue=queue)

    alone = [finished(make(*one)) for one in wanted]
    queue = AttackQueue(2)
    together = [make(*one, queue) for one in wanted]
    for live in together:
        live.start()
    for one, live in zip(alone, together, strict=True):
        other = live.wait(PATIENCE_S)
        assert one.result
        assert other.result, other.message
        for name, found in one.result.subjects.items():
            assert other.result.subjects[name].prepared_sha256 == found.prepared_sha256
            assert other.result.subjects[name].outcome.ranks_after == found.outcome.ranks_after


def test_attacks_over_the_limit_wait_in_the_queue(served: list[ServedGallery]) -> None:
    queue = AttackQueue(1)
    options = LiveOptions(attack="ES", engine=AttackOptions(steps=10_000), pace=20)
    first, second = (LiveAttack(served, Victim(id=served[0].gallery.ids[0]), options, queue=queue) for _ in range(2))
    first.start()
    while first.status().phase is not AttackPhase.RUNNING:
        time.sleep(0.01)
    second.start()
    while not second.status().ahead:
        time.sleep(0.01)
    assert (second.status().phase, second.status().ahead) == (AttackPhase.WAITING, 1)
    second.stop()
    assert second.wait(PATIENCE_S).phase is AttackPhase.STOPPED
    first.abandon()
    assert first.wait(PATIENCE_S).phase is AttackPhase.ABANDONED


def test_invalid_attacks_fail_with_a_message(served: list[ServedGallery], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AuditError, match="at least one model"):
        LiveAttack([], Victim(id="x"), LiveOptions())
    with pytest.raises(AttackError, match="unknown attack 'QB'"):
        LiveOptions(attack="QB")
    with pytest.raises(AttackError, match="no option weight"):
        LiveOptions(settings={"weight": 2})
    for victim, options, told in (
        (Victim(id="nobody"), LiveOptions(), "no image with the id 'nobody'"),
        (Victim(data=b"no image"), LiveOptions(), "not an image of a supported format"),
        (Victim(id=served[0].gallery.ids[0]), LiveOptions(targets=("nobody",)), "no image with the id"),
        (
            Victim(id=served[0].gallery.ids[0]),
            LiveOptions(settings={"m": 2}, targets=(served[0].gallery.ids[1],)),
            "shape",
        ),
    ):
        live = LiveAttack(served, victim, options)
        live.start()
        status = live.wait(PATIENCE_S)
        assert status.phase is AttackPhase.FAILED
        assert told in status.message
    assert not caplog.records


def test_an_internal_error_is_logged_and_not_shown(
    served: list[ServedGallery], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    live = LiveAttack(
        served,
        Victim(id=served[0].gallery.ids[3]),
        LiveOptions(method=SearchMethod.TRANSFER),
        transfers={one.name: broken for one in served},  # type: ignore[misc]
    )
    live.start()
    status = live.wait(PATIENCE_S)
    assert status.phase is AttackPhase.FAILED
    assert "secret" not in status.message
    assert "secret" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("attack on")]
