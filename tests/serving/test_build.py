"""The command `hardrank index`: build, continue, change, and report errors in one line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from hardrank.models.home import typed
from hardrank.serving.ann.faiss_kinds import MIN_ITEMS
from hardrank.serving.build import main
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import list_images
from tests.serving.pictures import write_gallery, write_picture
from tests.waiting import PATIENCE_S

SCRIPT = Path(__file__).parents[2] / "serving" / "build.py"


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return write_gallery(tmp_path / "images", labels=4, each=6)


def test_build_continue_and_delete(
    gallery: Path, benign_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    build = ["--model", str(benign_bundle), "--images", str(gallery), "--out", str(out), "--threads", "1"]
    (gallery / "class-0" / "bad.jpg").write_bytes(b"no image")
    assert main(build) == 0
    text = capsys.readouterr().out
    assert "24 added, 0 replaced, 0 already indexed, 1 left out" in text
    assert "bad.jpg: unreadable image" in text
    assert "items   24 with 4 labels" in text
    problems = json.loads((out / "problems.json").read_text())
    assert problems["counts"] == {"unreadable image": 1}
    write_picture(gallery / "class-0" / "bad.jpg", seed=7)
    assert main(build) == 0
    assert "1 added, 0 replaced, 24 already indexed, 0 left out" in capsys.readouterr().out
    capsys.readouterr()
    moved = gallery.rename(gallery.with_name("moved"))
    assert main([*build[:3], str(moved), *build[4:]]) == 0
    assert "25 already indexed (25 of them moved)" in capsys.readouterr().out
    (moved / "class-1" / "1.png").unlink()
    assert main(["--out", str(out), "--prune", "--delete", "class-0~bad.jpg"]) == 0
    assert "1 deleted, whose files no longer exist" in capsys.readouterr().out
    assert main(["--out", str(out), "--info"]) == 0
    text = capsys.readouterr().out
    assert "items   23 with 4 labels; 2 deleted" in text
    for line in (f"index   {out}", "model   tiny-benign (SHA-256 ", "search  faiss flat", "disk    ", "memory  "):
        assert line in text


def test_an_image_over_the_limit_of_pixels_is_left_out_until_the_limit_is_raised(
    benign_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "index"
    images.mkdir()
    Image.effect_noise((60, 40), 60).save(images / "small.png")
    Image.effect_noise((60, 41), 60).save(images / "large.png")
    build = ["--model", str(benign_bundle), "--images", str(images), "--out", str(out), "--threads", "1"]
    assert main([*build, "--image-pixels", "2400"]) == 0
    assert "1 added, 0 replaced, 0 already indexed, 1 left out" in capsys.readouterr().out
    [problem] = json.loads((out / "problems.json").read_text())["problems"]
    assert "large.png" in json.dumps(problem)
    assert "60×41 pixels, above the limit of 2400" in json.dumps(problem, ensure_ascii=False)
    assert main([*build, "--image-pixels", "2460"]) == 0
    assert "1 added, 0 replaced, 1 already indexed, 0 left out" in capsys.readouterr().out


def test_errors_are_one_line_and_exit_with_status_2(
    gallery: Path, benign_bundle: Path, robust_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "index")]
    model, images = ["--model", str(benign_bundle)], ["--images", str(gallery)]
    main([*model, *images, *out, "--threads", "1"])
    wrong = {
        "nothing to do": out,
        "give both --model": [*model, *out],
        "give --prune, too": [*out, "--info", "--gone-for-good", str(tmp_path)],
        "not both": [*model, *images, "--from-run", "runs/x", *out],
        "is not a bundle": ["--model", str(tmp_path), *images, *out],
        "new [old] x[/] does not exist": ["--model", str(tmp_path / "new [old] x[/]"), *images, *out],
        "neither a folder of images": [*model, "--images", str(tmp_path / "absent"), *out],
        "belongs to the model tiny-benign": ["--model", str(robust_bundle), *images, *out],
        "other values of structure": [*model, *images, *out, "--structure", "hnsw"],
        "no item has the id 'absent'": [*out, "--delete", "absent"],
        "is not an index": ["--out", str(tmp_path / "absent"), "--info"],
        "options of Milvus": [*model, *images, "--out", str(tmp_path / "new"), "--milvus.uri", "x.db"],
    }
    for message, arguments in wrong.items():
        capsys.readouterr()
        assert main(arguments) == 2, message
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_a_build_that_indexes_nothing_fails_and_says_why(
    benign_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    images = tmp_path / "images"
    images.mkdir()
    assert main(["--model", str(benign_bundle), "--images", str(images), "--out", str(out)]) == 1
    assert "lists no images" in capsys.readouterr().err
    assert not out.exists()
    for name in ("one.jpg", "two.png"):
        (images / name).write_bytes(b"not an image")
    build = ["--model", str(benign_bundle), "--images", str(images), "--out", str(out), "--threads", "1"]
    assert main(build) == 1
    assert "all 2 were left out, the first (" in capsys.readouterr().err
    assert json.loads((out / "problems.json").read_text())["counts"] == {"unreadable image": 2}
    write_picture(images / "one.jpg", seed=1)
    assert main(build) == 0
    (images / "one.jpg").write_bytes(b"not an image")
    assert main(build) == 1


def test_an_ann_index_for_few_items_is_replaced_by_flat_and_noted(
    gallery: Path, benign_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["--model", str(benign_bundle), "--images", str(gallery), "--threads", "1"]
    assert main([*build, "--out", str(tmp_path / "graph"), "--structure", "hnsw"]) == 0
    text = capsys.readouterr().out
    assert "search  faiss flat" in text
    assert "flat is used instead of hnsw" in text
    assert str(MIN_ITEMS) in text
    assert main([*build, "--out", str(tmp_path / "auto")]) == 0
    assert "instead of" not in capsys.readouterr().out


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("Examples:", typed("index"), "--images", "--structure", "--threads", "--delete"):
        assert word in text


def test_invalid_numbers_are_refused_with_the_option(
    gallery: Path, benign_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["--model", str(benign_bundle), "--images", str(gallery), "--out", str(tmp_path / "index")]
    for option, value in {"--recall": "1.5", "--threads": "-1", "--batch": "0"}.items():
        assert main([*build, option, value]) == 2
        assert option.removeprefix("--") in capsys.readouterr().err


def test_the_script_continues_after_a_kill_without_torch(gallery: Path, benign_bundle: Path, tmp_path: Path) -> None:
    for number in range(400):
        write_picture(gallery / "many" / f"{number}.png", seed=number)
    out = tmp_path / "index"
    command = [sys.executable, str(SCRIPT), "--model", str(benign_bundle), "--images", str(gallery), "--out", str(out)]
    process = subprocess.Popen([*command, "--batch", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not (out / "items.sqlite").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = f"import sys; from hardrank.serving.build import main; status = main({command[2:]!r})"
    code = f"{run}; sys.exit(status or 'torch' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parents[1], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    with SearchIndex.open(out) as index:
        assert sorted(index.ids(count=1000)) == sorted(entry.id for entry in list_images(gallery).entries)
