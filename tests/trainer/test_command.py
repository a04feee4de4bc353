"""The command wrongly used, its help, and several processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hardrank.models.bundle import load_card, verify_bundle
from hardrank.trainer.run import main
from tests.trainer.place import Place, environment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--robust.defense", "HM[S,hard]"), "no destination is called 'hard'"),
        (("--robust.defense", "est[/x]"), "est[/x]"),
        (("--robust.defense", "hm[s]"), "'hm[s]'"),
        (("--data.root", "new [old] x"), "new [old] x is not a folder"),
        (("--data.root", "nowhere"), "nowhere"),
        (("--initialisation", "imagenet"), "small-resnet has no ImageNet weights"),
        (("--initialisation", "no/bundle"), "no/bundle is not a bundle"),
        (("--device", "tpu"), "device is auto, cpu or cuda"),
        (("--robust.epochs", "0"), "epochs must be above 0"),
        (("--robust.epsilon", "8/x"), "8/x"),
        (("--robust.epcohs", "1"), "epcohs"),
        (("--name", "a/b"), "name of a run"),
        (("--seed", "-1"), "seed must be at least 0, not -1"),
        (("--processes", "0"), "--processes must be at least 1, not 0"),
        (("--checkpoint-every", "0"), "--checkpoint-every must be at least 1, not 0"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    printed = Place(tmp_path).run(*options, expect=2)
    assert message in " ".join(printed.split())


def test_an_unknown_recipe_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmeo"]) == 2
    assert (
        "no recipe is called 'dmeo'; there are caltech101, caltech101-paper, cars, cub, demo, demo-paper, folder, sop"
        in capsys.readouterr().err
    )


def test_help_teaches_every_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_two_processes_train_the_same_network(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.run_afresh("--processes", "2")
    for kind in ("benign", "robust"):
        verify_bundle(place.zoo / f"tiny-{kind}")
    content = json.loads((place.runs / "tiny" / "run.json").read_text(encoding="utf-8"))
    assert load_card(place.zoo / "tiny-benign").run_id == content["run_id"]


@pytest.mark.slow
def test_torchrun_starts_it_too(tmp_path: Path) -> None:
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


def test_a_command_that_failed_does_not_stand_in_the_way_of_the_right_one(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert "nowhere is not a folder" in " ".join(place.run("--data.root", "nowhere", expect=2).split())
    assert "nowhere is not a folder" in " ".join(place.run("--data.root", "nowhere", expect=2).split())


def test_an_interruption_before_anything_was_trained_promises_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hardrank.trainer.run.run_main_job", interrupted)
    monkeypatch.setenv("COLUMNS", "160")
    assert main([]) == 130
    assert "--resume goes on from the last checkpoint, if there is one" in capsys.readouterr().err


def test_what_is_left_out_is_named_before_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place(tmp_path)
    (tmp_path / "images" / "class-0" / "broken.png").write_bytes(b"no image")
    (tmp_path / "images" / "notes").mkdir()
    place.run("--initialisation", "no/bundle", expect=2)
    assert "broken.png: unreadable image" in caplog.text
    assert "notes: empty class" in caplog.text
