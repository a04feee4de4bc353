"""The audit command: its files, output and exit status."""

import _thread
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from hardrank.audit_app.entries.entry import read_entry
from hardrank.audit_app.results.schema import read_report
from hardrank.audit_app.run import main
from tests.audit_app.entries.made_up import make_about
from tests.audit_app.indexed import make_index
from tests.audit_app.onnx_graphs import without_gradients


@pytest.fixture(scope="module")
def base(tiny_zoo: list[Path], gratings: Path) -> list[str]:
    """Arguments of a quick audit of the robust bundle, without --out."""
    return [
        *("--models", str(tiny_zoo[1])),
        *("--images", str(gratings)),
        *("--attacks", "TMA", "ES", "--attacked", "6", "--steps", "2", "--seed-check", "0", "--bootstrap", "20"),
        *("--strong-images", "2", "--sanity-images", "2"),
        *("--worst", "1", "--device", "cpu", "--threads", "1"),
    ]


@pytest.fixture(scope="module")
def earlier(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished audit."""
    out = tmp_path_factory.mktemp("earlier")
    assert main([*base, "--out", str(out)]) == 0
    return out


def test_the_files_are_written_and_named(base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--epsilon", "4/255", "--curve", "epsilon", "1/255", "8/255", "--transforms", "--transform-images", "2"]
    more += ["--certify", "2", "--sigma", "0.1", "--samples", "20"]
    assert main([*base, "--out", str(tmp_path), *more]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"report.json", "report.html", "tiny-robust.csv", "journal"} <= names
    said = capsys.readouterr()
    assert "6 of 64 images attacked" in said.out
    assert "attacks on tiny-robust" in said.out
    assert str(tmp_path / "report.html") in said.out
    report = read_report(tmp_path)
    assert report.settings.epsilon == 4 / 255
    assert report.command.startswith("python audit_app/run.py --models")
    [model] = report.models
    assert [point.at for point in model.curves[0].points] == [1 / 255, 8 / 255]
    assert model.edits is not None
    assert model.edits.n == 2
    assert model.survival is not None
    assert set(model.survival.figures) == set(model.figures)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for edit in model.edits.edits.values():
        assert edit.title in page
    for title in model.survival.titles.values():
        assert title in page
    assert [found.sigma for found in model.certificates] == [0.1]
    assert "<h2>Certificates</h2>" in page


def test_an_index_gives_the_figures_of_its_images(
    base: list[str], earlier: Path, tiny_zoo: list[Path], gratings: Path, tmp_path: Path
) -> None:
    index = make_index(tmp_path / "index", tiny_zoo[1], gratings)
    arguments = [*base, "--out", str(tmp_path / "out"), "--fail-drop", "score=0", "--baseline", str(earlier)]
    arguments[base.index("--images")] = "--index"
    arguments[base.index(str(gratings))] = str(index)
    assert main(arguments) == 0  # the same gallery, by its hash
    one, other = read_report(tmp_path / "out").models[0], read_report(earlier).models[0]
    assert one.figures == other.figures


def test_limits_decide_the_exit_status(base: list[str], earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(earlier)]
    assert main([*base, *out, "--fail-under", "R@1=0.1", "score=0"]) == 0
    assert "passed tiny-robust: R@1 is" in capsys.readouterr().out
    assert main([*base, *out, "--fail-under", "R@1=0.1", "TMA=99"]) == 1
    said = capsys.readouterr().out
    assert "FAILED tiny-robust: TMA is" in said
    assert ", under 99" in said
    baseline = ["--baseline", str(earlier / "report.json")]
    assert main([*base, *out, "--fail-drop", "score=0", *baseline]) == 0


def test_upper_bounds_are_printed_as_such_and_limited_only_if_accepted(
    base: list[str], tiny_zoo: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_file = without_gradients(tiny_zoo[1] / "model.onnx", tmp_path / "plain.onnx")
    models = [f"bundle={tiny_zoo[1]}", str(plain_file)]
    arguments = ["--models", *models, *base[2:], "--attacks", "all", "--resize", "36", "--search", "queries=5"]
    arguments += ["--method", "auto", "--attacked", "3", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--fail-under", "ERS=1"]) == 2
    assert "plain is attacked without its gradients (square)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()  # before anything is attacked
    assert main([*arguments, "--fail-under", "ERS=1", "--accept-upper-bound"]) == 0
    said = capsys.readouterr().out
    bundle, plain = read_report(tmp_path / "out").models
    assert plain.ers is not None
    assert plain.upper_bound
    assert not bundle.upper_bound
    tables = said.split("so that scores are upper bounds:")
    assert len(tables) == 2
    assert f"≤\u202f{plain.ers:.0f}" in tables[1]
    assert "5 queries per image and attack" in tables[1]
    assert "≤" not in tables[0]
    assert f"passed plain: ERS is ≤ {plain.ers:.4g}" in said


def test_a_folder_with_another_audit_is_refused_and_replaced_on_request(
    base: list[str], tiny_zoo: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path)]
    assert main([*base, *out]) == 0
    written = {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    other = ["--models", str(tiny_zoo[0]), *base[2:], "--attacked", "4", *out]
    assert main(other) == 2
    said = capsys.readouterr().err
    assert "attacked (6 → 4)" in said
    assert "models (tiny-robust" in said
    assert "--overwrite" in said
    assert {name: (tmp_path / name).read_bytes() for name in written} == written
    assert main([*other, "--overwrite"]) == 0
    assert {path.name for path in tmp_path.glob("*.csv")} == {"tiny-benign.csv"}
    assert [model.name for model in read_report(tmp_path).models] == ["tiny-benign"]


def test_errors_exit_with_2_and_name_the_cause(
    base: list[str],
    earlier: Path,
    gratings: Path,
    tiny_zoo: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*arguments: str) -> str:
        assert main([*arguments]) == 2
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert said.err.startswith("error: ")
        return said.err

    out = ["--out", str(tmp_path / "out")]
    models, images = ["--models", str(tiny_zoo[1])], ["--images", str(gratings)]
    assert "--run" in refused(*models, *images, *out, "--data-root", "x")
    without = refused(*models, *out)
    assert all(option in without for option in ("--run", "--images", "--index", "--gallery"))
    assert "outside its range" in refused(*base, *out, "--epsilon", "-1")
    assert "-3" in refused(*base, *out, "--threads", "-3")
    assert "-5" in refused(*base, *out, "--attacked", "-5")
    assert "unknown attack 'XX'" in refused(*models, *images, *out, "--attacks", "XX")
    assert "new \\[old] x[/] does not exist" in refused("--models", "./new \\[old] x[/]", *images, *out)
    assert "does not exist" in refused("--models", "./nowhere", *images, *out)
    assert "is neither a folder" in refused(*models, "--images", str(tmp_path / "absent"), *out)
    assert "is not an index" in refused(*models, "--index", str(gratings), *out)
    assert "neither the folder of a run" in refused(*models, "--run", str(gratings), *out)
    assert "'ERZ'" in refused(*base, *out, "--fail-under", "ERZ=3")
    assert "'30'" in refused(*base, *out, "--fail-under", "30")
    assert "ERS needs all ten results, and CA+" in refused(*base, *out, "--fail-under", "ERS=30")
    assert "--baseline" in refused(*base, *out, "--fail-drop", "score=2")
    assert "report.json" in refused(*base, *out, "--fail-drop", "score=2", "--baseline", str(tmp_path))
    differing = refused(
        *base, *out, "--seed", "7", "--fail-drop", "score=2", "--baseline", str(earlier / "report.json")
    )
    assert "seed (0 → 7)" in differing
    assert not (tmp_path / "out").exists()  # before anything is attacked
    assert "'time'" in refused(*base, *out, "--curve", "time", "3")
    assert "--attacks all" in refused(*base, *out, "--entry", "about.json")
    assert "2 files for 1 models" in refused(*base, *out, "--entry", "a.json", "b.json")
    assert "about.json" in refused(*models, *images, *out, "--entry", str(tmp_path / "about.json"))
    assert "is not an option of the search square" in refused(*base, *out, "--search", "sigma=3")
    assert "needs a surrogate" in refused(*base, *out, "--method", "transfer")
    damaged = shutil.copytree(tiny_zoo[1], tmp_path / "damaged")
    (damaged / "model.onnx").write_bytes(b"x")
    assert "SHA-256 differ" in refused("--models", str(damaged), *images, *out)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(gratings / "class-0" / "0.png", one)
    assert "two or more" in refused(*models, "--images", str(one), *out)
    assert "has one class" in refused(*models, "--images", str(gratings / "class-0"), *out)
    assert "attacks (TMA, ES → TMA)" in refused(*models, *images, "--attacks", "TMA", "--out", str(earlier))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--images", "x"], ["--models", "--out"]),
        (["--models", "m", "--out", "o", "--images", "x", "--run", "y"], ["--images", "--run"]),
        (["--models", "m", "--out", "o", "--images", "x", "--stepz", "3"], ["--stepz"]),
        (["--models", "m", "--out", "o", "--images", "x", "--epsilon", "8/x"], ["8/x"]),
        (["--models", "m", "--out", "o", "--images", "x", "--attacked", "many"], ["many"]),
    ],
)
def test_invalid_options_exit_with_2_and_are_named(
    arguments: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert all(name in told for name in named)


def test_the_kind_of_a_gallery_is_detected(base: list[str], earlier: Path, tmp_path: Path) -> None:
    arguments = [*base, "--out", str(tmp_path)]
    arguments[base.index("--images")] = "--gallery"
    assert main(arguments) == 0
    assert read_report(tmp_path).settings.gallery.sha256 == read_report(earlier).settings.gallery.sha256


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    for wanted in ("Examples:", "--fail-under ERS=30 R@1=0.4", "--curve epsilon 1/255", "--method transfer", "8/255"):
        assert wanted in said
    for option in ("--epsilon", "--restarts", "--random-start", "--surrogate", "--baseline", "--attacked", "--scale"):
        assert option in said


def test_the_table_shows_both_scores(earlier: Path, base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*base, "--attacks", "all", "--attacked", "2", "--sanity-images", "0"]
    about = earlier.parent / "about.json"
    about.write_text(make_about().model_dump_json(), encoding="utf-8")
    assert main([*arguments, "--out", str(earlier.parent / "all"), "--entry", str(about)]) == 0
    said = capsys.readouterr().out
    entry = read_entry(earlier.parent / "all" / "tiny-robust.entry.json")
    assert entry.about == make_about()
    assert entry.attacked.n == 2
    for part in ("ERS", "worst-case Recall@1", "strong ERS", "GTM (reference item)"):
        assert part in said, part
    [model] = read_report(earlier.parent / "all").models
    assert model.strong is not None
    assert model.strong.ers is not None
    assert f"{model.strong.ers:.1f}" in said
    assert main([*arguments, "--strong-images", "0", "--out", str(earlier.parent / "all")]) == 0
    assert "strong ERS" not in capsys.readouterr().out


@contextmanager
def ctrl_c_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Interrupt the block as Ctrl-C does, as soon as `condition` holds."""
    over = Event()

    def press() -> None:
        while not over.wait(0.005):
            if condition():
                _thread.interrupt_main()
                return

    # Where the tests run in the background the signal is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watch = Thread(target=press)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
        signal.signal(signal.SIGINT, before)


def test_the_same_command_continues_after_ctrl_c(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = [*base, "--steps", "20", "--batch", "2", "--attacked", "8", "--strong-images", "0"]
    interrupted, straight = tmp_path / "interrupted", tmp_path / "straight"
    with ctrl_c_when(lambda: any(interrupted.rglob("*.npz"))):
        assert main([*longer, "--out", str(interrupted)]) == 130
    complaints = capsys.readouterr().err
    assert "the same command continues from there" in complaints
    assert not (interrupted / "report.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in interrupted.rglob("*.npz")}
    assert 0 < len(kept) < 8
    for out in (interrupted, straight):
        assert main([*longer, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    one, other = read_report(interrupted), read_report(straight)
    assert one.models == other.models
    assert (interrupted / "tiny-robust.csv").read_bytes() == (straight / "tiny-robust.csv").read_bytes()
