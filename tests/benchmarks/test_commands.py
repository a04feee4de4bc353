"""Every benchmark explains itself, and runs at its tiny size without touching the recorded results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.command import RESULTS, ROOT

TINY = {
    "allocation": "",
    "app_start": "--zoo {zoo}",
    "attacks": "--bundle {zoo}/demo-robust",
    "certificates": "--bundle {zoo}/demo-robust",
    "edits": "--bundle {zoo}/demo-robust",
    "families": "",
    "hostile_images": "",
    "hm_step": "--bundle {zoo}/demo-robust",
    "hub_scan": "--bundles {zoo}/demo-benign",
    "index_build": "",
    "index_million": "",
    "large_answers": "",
    "live_attack": "--zoo {zoo}",
    "main_job": "demo --zoo {zoo}",
    "milvus_recall": "",
    "malformed_files": "",
    "pretrained_start": "",
    "rank_only": "--bundles {zoo}/demo-benign {zoo}/demo-robust --run {zoo}/../runs/demo",
    "recall_at_1": "--bundle {zoo}/demo-robust",
    "recipe_cost": "demo demo-paper --zoo {zoo}",
    "serving": "",
    "sessions": "",
    "strong_score": "--bundle {zoo}/demo-robust",
    "suspicion": "--benign {zoo}/demo-benign --robust {zoo}/demo-robust",
    "threats": "--bundle {zoo}/demo-robust",
    "training_curve": "demo",
    "update_step": "",
}
"""What each benchmark is given besides `--tiny`."""
HELPERS = {"load"}
"""Commands that a benchmark starts."""

pytestmark = pytest.mark.timeout(3600)


def run(name: str, *options: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo bundles of a training cut short."""
    folder = tmp_path_factory.mktemp("demo")
    small = [
        "--data.train-images-per-class",
        "26",
        "--warmup.epochs",
        "1",
        "--benign.epochs",
        "1",
        "--robust.epochs",
        "1",
        "--evaluation.attacked",
        "4",
        "--evaluation.steps",
        "2",
        "--evaluation.strong-images",
        "1",
    ]
    places = ["--zoo", str(folder / "zoo"), "--runs", str(folder / "runs"), "--device", "cpu"]
    command = [sys.executable, str(ROOT / "trainer" / "run.py"), "demo", *small, *places]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "zoo"


def test_every_benchmark_is_known() -> None:
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text("utf-8")}
    assert scripts == set(TINY) | HELPERS


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TINY, *HELPERS])
def test_help_says_what_is_measured_and_shows_a_command(name: str, tmp_path: Path) -> None:
    text = run(name, "--help", folder=tmp_path)
    assert f"python benchmarks/{name}.py" in text.partition("usage:")[2].partition("\n")[2]
    assert name in HELPERS or "--tiny" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_tiny_size_runs_and_records_nothing(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    # Training the bundles takes minutes, so only for the benchmarks that need them.
    zoo = request.getfixturevalue("zoo") if "{zoo}" in TINY[name] else None
    recorded = {path: path.read_bytes() for path in (*RESULTS.iterdir(), ROOT / "README.md")}
    printed = run(name, "--tiny", *TINY[name].format(zoo=zoo).split(), folder=tmp_path)
    assert printed.strip()
    assert {path: path.read_bytes() for path in (*RESULTS.iterdir(), ROOT / "README.md")} == recorded
