"""The command as users run it: to the end, interrupted, resumed and overwritten."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import pytest
import torch

from hardrank.models.bundle import load_card, load_embedder, preprocessing_of, verify_bundle
from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.files import sha256
from hardrank.models.preprocessing import Preprocessing
from hardrank.serving.ingest.image_list import list_run
from hardrank.trainer.export import save_weights
from hardrank.trainer.runtime.run_folder import exclusive
from hardrank.trainer.training.loop import run_stage
from hardrank.trainer.training.stage import PeriodicCallback, TrainingStage
from tests.trainer.place import Place, environment
from tests.trainer.tables import read_csv

QUICK = {"attacked": 2, "steps": 1, "strong_images": 0}
"""A short evaluation, for tests of other things."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    """An uninterrupted run, and what it printed."""
    place = Place(tmp_path_factory.mktemp("finished"))
    return place, place.run(onnx=True)


def test_a_run_writes_two_bundles_that_agree_with_their_onnx(finished: tuple[Place, str]) -> None:
    place, _ = finished
    for kind, defense in (("benign", "regular[S]"), ("robust", "HM[S,g_LGA]&ICS")):
        card = verify_bundle(place.zoo / f"tiny-{kind}")
        assert card.defense == defense
        assert card.parity["largest_difference"] <= 1e-4
        assert card.parity["same_top10"] >= 0.999
        assert card.data["train"]["classes"] == card.data["test"]["classes"] == 4
        assert len(card.data["sha256"]) == 64
        assert 0 <= card.metrics["recall_at_1"] <= 1
        assert card.robustness is not None
        assert card.robustness["n"] == 6
        assert card.robustness["ers_low"] <= card.robustness["ers"] <= card.robustness["ers_high"]
        assert {kind, f"{kind} evaluation"} <= card.durations.keys()
        images = torch.rand(5, 3, 32, 32)
        session = onnxruntime.InferenceSession(
            str(place.zoo / f"tiny-{kind}" / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        found = session.run(None, {"images": images.numpy()})[0]
        with torch.no_grad():
            expected = load_embedder(place.zoo / f"tiny-{kind}")(images).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_run_ends_with_a_table_and_the_next_commands(finished: tuple[Place, str]) -> None:
    place, printed = finished
    for expected in ("Recall@1", "ERS", "benign", "robust", "regular[S]", "HM[S,g_LGA]&ICS", "tensorboard --logdir"):
        assert expected in printed
    card = load_card(place.zoo / "tiny-robust")
    assert f"{card.metrics['recall_at_1']:.3f}" in printed
    assert "build.py --model zoo/tiny-benign --from-run runs/tiny --out indexes/tiny-benign" in printed
    both = "--model zoo/tiny-benign=indexes/tiny-benign --model zoo/tiny-robust=indexes/tiny-robust"
    assert f"app.py {both}" in printed
    assert "--models zoo/tiny-benign zoo/tiny-robust --run runs/tiny --out audits/tiny" in printed
    assert "--zoo zoo --gallery runs/tiny" in printed


def test_every_stage_shows_its_progress(finished: tuple[Place, str]) -> None:
    _, printed = finished
    for stage in ("warmup", "benign", "warmup-2", "robust", "attacks on benign", "attacks on robust"):
        assert any(line.startswith(stage + " ") for line in printed.splitlines()), stage
    assert "done in" in printed


def test_the_log_is_csv_and_tensorboard(finished: tuple[Place, str]) -> None:
    place, _ = finished
    logs = place.runs / "tiny" / "logs"
    rows = read_csv(logs / "robust.csv")
    assert [int(row["step"]) for row in rows] == [10, 12]
    assert {"loss", "triplet_loss", "hardness", "destination", "hardness_reached"} <= rows[0].keys()
    assert list((logs / "tensorboard" / "robust").glob("events.*"))


def test_results_of_attacked_images_are_a_csv_file(finished: tuple[Place, str]) -> None:
    place, _ = finished
    rows = read_csv(place.runs / "tiny" / "evaluation" / "robust.csv")
    assert len(rows) == 6
    assert {"row", "label", "CA+", "GTT"} <= rows[0].keys()


# The quick guards are the interrupted run below, and tests/trainer/training/test_loop.py.
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["warmup", "benign", "robust", "attacks on benign"])
def test_a_killed_run_resumes_to_the_same_weights(finished: tuple[Place, str], tmp_path: Path, moment: str) -> None:
    uninterrupted, _ = finished
    place = Place(tmp_path)
    process = subprocess.Popen(
        place.command(), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(moment + " "):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    place.run("--resume")
    assert_same_weights(place, uninterrupted)
    for kind in ("benign", "robust"):
        first, second = (load_card(p.zoo / f"tiny-{kind}") for p in (uninterrupted, place))
        assert first.metrics == second.metrics
        assert first.robustness is not None
        assert second.robustness is not None
        assert first.robustness["figures"] == second.robustness["figures"]
    assert [int(row["step"]) for row in read_csv(place.runs / "tiny" / "logs" / "robust.csv")] == [10, 12]


def test_two_processes_cannot_use_the_same_run(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with exclusive(place.runs / "tiny"):
        assert "another process is using" in place.run("--overwrite", expect=2)


@pytest.mark.slow
def test_replacing_a_run_can_be_resumed(finished: tuple[Place, str], tmp_path: Path) -> None:
    """The bundles of the former run stay until they are replaced, and finished parts of the new run are kept."""
    trained, _ = finished
    place = Place(tmp_path)
    shutil.copytree(trained.zoo, place.zoo)
    place.run(expect=2)  # another run's bundles are refused
    with subprocess.Popen(
        place.command("--overwrite"), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("benign ") for line in process.stdout)
        process.kill()
    verify_bundle(place.zoo / "tiny-benign")
    printed = place.run("--resume", "--overwrite")
    (warmup,) = (line for line in printed.splitlines() if line.startswith("warmup "))
    assert "12/12" in warmup, "the warm-up was done before the interruption, and is read"
    run_id = json.loads((place.runs / "tiny" / "run.json").read_text(encoding="utf-8"))["run_id"]
    assert {load_card(place.zoo / f"tiny-{kind}").run_id for kind in ("benign", "robust")} == {run_id}


def test_resuming_a_finished_run_prints_its_table(finished: tuple[Place, str]) -> None:
    place, printed = finished
    before = (place.zoo / "tiny-robust" / "card.json").stat().st_mtime_ns
    again = place.run("--resume")
    assert (place.zoo / "tiny-robust" / "card.json").stat().st_mtime_ns == before
    assert printed.split("unseen classes")[1] == again.split("unseen classes")[1]


def test_a_run_lists_its_test_images_for_an_index(finished: tuple[Place, str]) -> None:
    listing = list_run(finished[0].zoo / "tiny-benign")
    assert {entry.label for entry in listing.entries} == {f"class-{number}" for number in range(4, 8)}
    assert all(entry.path.is_file() for entry in listing.entries)


def test_runs_and_bundles_are_only_overwritten_on_request(finished: tuple[Place, str], tmp_path: Path) -> None:
    place, _ = finished
    weights = (place.zoo / "tiny-benign" / "weights.safetensors").read_bytes()
    assert "already holds a run: use --resume" in place.run(expect=2)
    assert "started with other values of seed" in place.run("--resume", "--seed", "5", expect=2)
    assert "was made by another run; give --overwrite" in place.run("--runs", str(tmp_path), expect=2)
    assert (place.zoo / "tiny-benign" / "weights.safetensors").read_bytes() == weights


def test_training_starts_from_a_bundle(finished: tuple[Place, str], tmp_path: Path) -> None:
    trained, _ = finished
    short = {"defense": "regular[S]", "updates": 2, "pairs": 8}
    robust = {**short, "defense": "HM[S,g_LGA]&ICS", "steps": 1}
    place = Place(
        tmp_path, initialisation=str(trained.zoo / "tiny-benign"), benign=short, robust=robust, evaluation=QUICK
    )
    place.run()
    assert not (place.runs / "tiny" / "checkpoints" / "warmup.ckpt").exists()
    card = load_card(place.zoo / "tiny-robust")
    assert card.config["initialisation"] == str(trained.zoo / "tiny-benign")


def _pretrained(folder: Path, **changes: object) -> Place:
    """A recipe of stages from pretrained weights, as `folder` has them."""
    torch.manual_seed(3)
    folder.mkdir(exist_ok=True)
    save_weights(build_embedder(Architecture(dimension=8, image_size=32)), folder / "start.safetensors")
    stage = {"pairs": 8, "steps": 1, "random_start": True, "epsilon_ramp": 0.5}
    return Place(
        folder,
        initialisation="imagenet",
        weights=str(folder / "start.safetensors"),
        benign={"defense": "regular[S]", "updates": 3, "pairs": 8, "learning_rate": 1e-4, "averaging": 0.9},
        robust_stages=[
            {**stage, "defense": "FARE", "epochs": 2, "averaging": 0.5},
            {**stage, "defense": "minmax[S]", "updates": 2},
        ],
        robust={"defense": "HM[S,g_LGA]&ICS", "epochs": 1, "pairs": 8, "steps": 2},
        evaluation=QUICK,
        **changes,
    )


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An uninterrupted run in stages from pretrained weights."""
    place = _pretrained(tmp_path_factory.mktemp("staged"), robust_start="benign")
    place.run()
    return place


def test_the_robust_model_is_trained_in_stages(staged: Place) -> None:
    checkpoints = {path.stem for path in (staged.runs / "tiny" / "checkpoints").glob("*.ckpt")}
    assert checkpoints == {"benign", "robust-1", "robust-2", "robust"}
    card = load_card(staged.zoo / "tiny-robust")
    assert card.defense == "FARE, then minmax[S], then HM[S,g_LGA]&ICS"
    assert [stage["defense"] for stage in card.config["robust_stages"]] == ["FARE", "minmax[S]"]
    logged = read_csv(staged.runs / "tiny" / "logs" / "robust-1.csv")
    assert {"shift", "benign_shift", "cosine", "recall"} <= logged[0].keys()


def test_an_interrupted_run_in_stages_resumes_to_the_same_weights(staged: Place, tmp_path: Path) -> None:
    place = _pretrained(tmp_path, robust_start="benign")

    def stop(stage: TrainingStage, *arguments: Any, **options: Any) -> Embedder:
        def raise_at_the_second_update(step: int, _: Embedder) -> None:
            if step == 2:
                raise KeyboardInterrupt

        if stage.name == "robust-1":
            options["periodic"] = PeriodicCallback(every=1, call=raise_at_the_second_update)
        return run_stage(stage, *arguments, **options)

    with patch("hardrank.trainer.job_steps.run_stage", stop):
        assert "--resume" in place.run("--checkpoint-every", "1", expect=130)
    checkpoints = place.runs / "tiny" / "checkpoints"
    assert {path.stem for path in checkpoints.glob("*.ckpt")} == {"benign", "robust-1"}
    place.run("--resume")
    assert_same_weights(place, staged)


# The quick guard is the interrupted run above.
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["benign", "robust-1", "robust-2", "robust"])
def test_a_killed_run_in_stages_resumes_to_the_same_weights(staged: Place, tmp_path: Path, moment: str) -> None:
    place = _pretrained(tmp_path, robust_start="benign")
    with subprocess.Popen(
        place.command("--checkpoint-every", "1"), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        checkpoint = place.runs / "tiny" / "checkpoints" / f"{moment}.ckpt"
        while process.poll() is None and not checkpoint.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    place.run("--resume")
    assert_same_weights(place, staged)


def assert_same_weights(one: Place, other: Place) -> None:
    for kind in ("benign", "robust"):
        mine, theirs = one.weights(kind), other.weights(kind)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), kind


def test_training_starts_from_a_file_of_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    architecture = {"backbone": "small-resnet", "dimension": 16, "image_size": 32, "mean": [0.5, 0.4, 0.3]}
    start, file = build_embedder(Architecture(dimension=8, image_size=32)), tmp_path / "start.safetensors"
    save_weights(start, file)
    short = {"defense": "regular[S]", "epochs": 1, "pairs": 8, "learning_rate": 1e-9, "weight_decay": 0.0}
    preprocessing = {"resize": 36, "crop": 32, "fit": "shortest", "interpolation": "bicubic"}
    place = Place(
        tmp_path,
        initialisation="imagenet",
        weights=str(file),
        architecture=architecture,
        preprocessing=preprocessing,
        benign=short,
        robust=short,
        evaluation=QUICK,
    )
    place.run()
    card = load_card(place.zoo / "tiny-benign")
    assert card.initial_weights is not None
    assert (card.initial_weights.origin, card.initial_weights.name) == ("file", "start.safetensors")
    assert card.initial_weights.sha256 == sha256(file)
    assert card.architecture.mean == (0.5, 0.4, 0.3)
    assert preprocessing_of(card) == Preprocessing.from_dict(preprocessing)
    trained = load_embedder(place.zoo / "tiny-benign")
    for one, other in zip(trained.backbone.parameters(), start.backbone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    rows = trained.head.weight
    torch.testing.assert_close(rows @ rows.T, torch.eye(16), rtol=0, atol=1e-4)
