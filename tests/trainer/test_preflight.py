"""The checks before the first update: estimates, and an error for each thing that would fail later."""

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file

from hardrank.models.embedder import Architecture, build_embedder
from hardrank.models.weights_file import WeightsError
from hardrank.trainer import preflight
from hardrank.trainer.config import WarmupOptions
from hardrank.trainer.export import ExportError, save_weights
from hardrank.trainer.job_steps import Job, read_images
from hardrank.trainer.preflight import PreflightCheck, PreflightError, available_memory, check_before_training
from hardrank.trainer.recipe import load_recipe
from hardrank.trainer.runtime.processes import SINGLE_PROCESS
from hardrank.trainer.runtime.run_folder import Run
from tests.trainer.place import Place
from tests.trainer.tiny import write_images, write_recipe

STAGES = [{"defense": "FARE", "updates": 5, "pairs": 8, "steps": 1, "random_start": True}]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("preflight")
    weights = folder / "start.safetensors"
    save_weights(build_embedder(Architecture(dimension=8, image_size=32)), weights)
    images = write_images(folder / "images")
    changes: dict[str, Any] = {"initialisation": "imagenet", "weights": str(weights), "robust_stages": STAGES}
    config = load_recipe(write_recipe(folder / "tiny.yaml", images, **changes))
    return Job(
        config=config,
        run=Run(folder=folder / "run", run_id="a", command="", created=""),
        fabric=L.Fabric(accelerator="cpu", devices=1),
        low_precision=False,
        checkpoint_every=50,
        images=read_images(config, SINGLE_PROCESS, lambda _: None),
        report=lambda _: None,
    )


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The export takes seconds, and most checks do not depend on it."""

    def write(embedder: object, folder: Path, *rest: object) -> None:
        (folder / "model.onnx").write_bytes(bytes(1000))

    monkeypatch.setattr(preflight, "export", write)


def test_a_run_begins_with_checks_that_estimate_it(tmp_path: Path) -> None:
    short = {"defense": "regular[S]", "updates": 2, "pairs": 8}
    place = Place(
        tmp_path,
        warmup={"epochs": 1},
        benign=short,
        robust=short,
        evaluation={"attacked": 2, "steps": 1, "strong_images": 0},
    )
    printed = place.run("--preflight")
    content = json.loads((place.runs / "tiny" / "preflight.json").read_text(encoding="utf-8"))
    stages = content["seconds_by_stage"]
    assert set(stages) == {"warmup", "benign", "robust", "attacks on benign", "attacks on robust"}
    assert content["total_seconds"] == pytest.approx(sum(stages.values()), abs=0.1)
    assert min(content["disk_bytes"], content["memory_bytes"]) > 1e6
    assert "The run will take about" in printed
    assert "run " in printed.partition("warmup  ")[2], "later stages have a time too"


def test_a_plan_prints_the_estimate_and_leaves_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    printed = place.run("--preflight", "--plan")
    assert "The run will take about" in printed
    assert sorted(tmp_path.rglob("*")) == before
    assert "--no-preflight" in place.run("--plan", expect=2)


@pytest.mark.usefixtures("no_export")
def test_a_run_without_updates_has_an_estimate_of_its_attacks(job: Job) -> None:
    still = replace(job.config.robust, updates=0)
    found = check_before_training(
        replace(job, config=replace(job.config, benign=still, robust=still, robust_stages=())), job.run.folder
    )
    assert set(found.seconds_by_stage) == {"attacks on benign"}, "the robust model would be the same"


@pytest.mark.usefixtures("no_export")
def test_an_anchored_warm_up_is_in_the_estimate(job: Job) -> None:
    """The benign model has no warm-up here."""
    config = replace(
        job.config,
        initialisation="imagenet-warmup",
        warmup=WarmupOptions(updates=7, batch_size=8, anchor=1.0, anchor_size=40),
        benign=replace(job.config.benign, warmup_epochs=0),
        robust=replace(job.config.robust, warmup_epsilon=4 / 255),
        robust_stages=(),
    )
    found = check_before_training(replace(job, config=config), job.run.folder)
    assert list(found.seconds_by_stage) == [
        "features",
        "benign",
        "attacks on benign",
        "warmup-4",
        "robust",
        "attacks on robust",
    ]
    assert min(found.seconds_by_stage.values()) > 0


@pytest.mark.usefixtures("no_export")
def test_estimates_grow_with_updates_and_batches(job: Job) -> None:
    found = check_before_training(job, job.run.folder)
    assert set(found.seconds_by_stage) == {
        "benign",
        "robust-1",
        "robust",
        "attacks on benign",
        "attacks on robust",
    }
    longer = replace(job.config, robust=replace(job.config.robust, updates=10_000, pairs=20))
    more = check_before_training(replace(job, config=longer), job.run.folder)
    assert more.seconds_by_stage["robust"] > 50 * found.seconds_by_stage["robust"]
    assert more.memory_bytes > found.memory_bytes


def test_absent_weights_are_an_error_before_training(tmp_path: Path) -> None:
    place = Place(tmp_path, initialisation="imagenet", weights=str(tmp_path / "absent.safetensors"))
    assert "absent.safetensors" in place.run("--preflight", expect=2)
    assert not (place.runs / "tiny" / "checkpoints").exists()


def test_damaged_weights_are_an_error(job: Job, tmp_path: Path) -> None:
    file = tmp_path / "damaged.safetensors"
    assert job.config.weights is not None
    file.write_bytes(job.config.weights.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"damaged\.safetensors"):
        check_before_training(replace(job, config=replace(job.config, weights=file)), tmp_path)


def test_weights_that_overflow_are_an_error(job: Job, tmp_path: Path) -> None:
    assert job.config.weights is not None
    state = {name: value * 1e30 for name, value in load_file(job.config.weights).items() if value.is_floating_point()}
    save_file(state, tmp_path / "huge.safetensors")
    with pytest.raises(PreflightError, match=r"not finite|differs from it") as error:
        check_before_training(replace(job, config=replace(job.config, weights=tmp_path / "huge.safetensors")), tmp_path)
    assert error.value.check in {PreflightCheck.TRAINING, PreflightCheck.FOLDING}


def test_a_network_that_cannot_be_exported_is_an_error(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ExportError("small-resnet cannot be exported to ONNX: no operator")

    monkeypatch.setattr(preflight, "export", fail)
    with pytest.raises(PreflightError, match=r"no operator.*use another backbone") as error:
        check_before_training(job, job.run.folder)
    assert error.value.check is PreflightCheck.EXPORT


@pytest.mark.usefixtures("no_export")
def test_too_little_disk_is_an_error(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(PreflightError, match="--runs and --zoo") as error:
        check_before_training(job, tmp_path / "a" / "zoo")
    assert error.value.check is PreflightCheck.DISK


@pytest.mark.usefixtures("no_export")
def test_too_little_memory_is_an_error(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda _: 1000)
    with pytest.raises(PreflightError, match=r"lower.*--robust.pairs") as error:
        check_before_training(job, job.run.folder)
    assert error.value.check is PreflightCheck.MEMORY


def test_available_memory_is_that_of_the_container(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert available_memory(cpu, proc=tmp_path, cgroup=tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n", encoding="ascii")
    assert available_memory(cpu, proc=tmp_path, cgroup=tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("900\n", encoding="ascii")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 300\n", encoding="ascii")
    assert available_memory(cpu, proc=tmp_path, cgroup=tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("1000\n", encoding="ascii")
    assert available_memory(cpu, proc=tmp_path, cgroup=tmp_path) == 1000 - 900 + 300
