"""The command: mistakes, help, threads, and several processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hardrank.models.bundle import load_card, verify_bundle
from hardrank.trainer.recipe import recipe_names
from hardrank.trainer.run import main
from tests.trainer.place import Place, environment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--robust.defense", "HM[S,hard]"), "'hard'"),
        (("--robust.defense", "est[/x]"), "est[/x]"),
        (("--robust.defense", "hm[s]"), "'hm[s]'"),
        (("--data.root", "new [old] x"), "new [old] x"),
        (("--data.root", "nowhere"), "nowhere"),
        (("--initialisation", "imagenet"), "small-resnet"),
        (("--initialisation", "no/bundle"), "no/bundle"),
        (("--device", "tpu"), "not 'tpu'"),
        (("--robust.epochs", "0"), "epochs must be above 0"),
        (("--robust.epsilon", "8/x"), "8/x"),
        (("--robust.epcohs", "1"), "epcohs"),
        (("--name", "a/b"), "'a/b'"),
        (("--seed", "-1"), "seed must be at least 0, not -1"),
        (("--processes", "0"), "--processes must be at least 1, not 0"),
        (("--threads", "0"), "--threads must be at least 1, not 0"),
        (("--checkpoint-every", "0"), "--checkpoint-every must be at least 1, not 0"),
    ],
)
def test_mistakes_are_errors_that_name_the_value(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    printed = Place(tmp_path).run(*options, expect=2)
    assert message in " ".join(printed.split())


def test_an_unknown_recipe_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmeo"]) == 2
    told = capsys.readouterr().err
    assert "'dmeo'" in told
    assert all(name in told for name in recipe_names())


def test_help_explains_options_with_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit, match="0"):
        main(["caltech101", "--help"])
    printed = capsys.readouterr().out
    words = " ".join(printed.replace("│", " ").split())
    assert "image_size" in words.partition("--preprocessing.crop")[2][:200]
    assert "preprocessing.crop" in words.partition("--architecture.image-size")[2][:200]
    assert "without effect for regular[…]" in words
    assert "of the same class in an SPC-2 batch" in words
    for expected in ("--resume", "--robust.defense", "8/255", "python trainer/run.py", "pixels in [0,1]", "caltech101"):
        assert expected in printed


@pytest.mark.slow
def test_two_processes_train_evaluate_and_export(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.run_afresh("--processes", "2")
    for kind in ("benign", "robust"):
        verify_bundle(place.zoo / f"tiny-{kind}")
    content = json.loads((place.runs / "tiny" / "run.json").read_text(encoding="utf-8"))
    assert load_card(place.zoo / "tiny-benign").run_id == content["run_id"]


@pytest.mark.slow
def test_torchrun_starts_the_command(tmp_path: Path) -> None:
    place = Place(tmp_path)
    command = place.command()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command[1:]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verify_bundle(place.zoo / "tiny-robust")
    assert done.stdout.count("unseen classes") == 1


def test_a_failed_command_can_be_repeated(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert "nowhere" in " ".join(place.run("--data.root", "nowhere", expect=2).split())
    assert "nowhere" in " ".join(place.run("--data.root", "nowhere", expect=2).split())


@pytest.mark.parametrize(("options", "threads"), [((), 3), (("--threads", "2"), 2)])
def test_threads_default_to_the_environment_variable(
    tmp_path: Path, options: tuple[str, ...], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("HARDRANK_THREADS", "3")
    arguments = ["demo", "--device", "cpu", "--runs", str(tmp_path), "--initialisation", "no/bundle", *options]
    try:
        assert main([*arguments, "--data.root", str(tmp_path / "nowhere"), "--data.name", "folder"]) == 2
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_an_interruption_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hardrank.trainer.run.run_main_job", interrupted)
    monkeypatch.setenv("COLUMNS", "160")
    assert main([]) == 130
    assert "--resume" in capsys.readouterr().err


def test_images_that_are_left_out_are_named_before_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place(tmp_path)
    (tmp_path / "images" / "class-0" / "broken.png").write_bytes(b"no image")
    (tmp_path / "images" / "notes").mkdir()
    place.run("--initialisation", "no/bundle", expect=2)
    assert "broken.png: unreadable image" in caplog.text
    assert "notes: the folder has no images; add" in caplog.text
    assert not place.runs.exists(), "a run that fails before training leaves no folder"


def test_resuming_without_a_run_says_that_it_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Place(tmp_path).run("--resume", "--name", "absent", "--initialisation", "no/bundle", expect=2)
    assert "nothing to resume" in caplog.text
    assert "absent" in caplog.text
