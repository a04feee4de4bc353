"""Studies: trials run once each, resume after an interruption, and end in a table with plots."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
import torch
import yaml

from hardrank.models.errors import HardrankError
from hardrank.models.progress import StageProgress
from hardrank.trainer.config import ConfigError
from hardrank.trainer.metric.losses import hardness
from hardrank.trainer.metric.samplers import Sampler, draw_triplets
from hardrank.trainer.recipe import load_recipe
from hardrank.trainer.runtime.launch import ROOT, Launch
from hardrank.trainer.studies import estimate
from hardrank.trainer.studies.plan import load_study, merged, study_names
from hardrank.trainer.studies.plots import line_styles, write_plots
from hardrank.trainer.studies.samplers import hardness_by_sampler
from hardrank.trainer.studies.schedule import read_state
from hardrank.trainer.studies.table import markdown, summarize
from hardrank.trainer.studies.titles import title_offsets
from hardrank.trainer.studies.trial import label_stages
from hardrank.trainer.studies.trial_list import trials
from hardrank.trainer.study import Command, main, open_study, run_study
from tests.trainer.golden.cases import PAPER_TABLES
from tests.trainer.tables import read_csv
from tests.trainer.tiny import write_images, write_recipe
from tests.waiting import PATIENCE_S


def write_study(folder: Path, **changes: Any) -> Path:
    """Write a study of two rows, one of them with two seeds, on tiny images."""
    evaluation = {"attacked": 4, "steps": 2, "strong_images": 0}
    recipe = write_recipe(folder / "recipe.yaml", write_images(folder / "images"), evaluation=evaluation)
    content = {
        "name": "small",
        "recipe": str(recipe),
        "rows": [{"defense": "regular[R]"}, {"defense": "HM[S,g_LGA]&ICS", "seeds": [0, 1]}],
        "changes": {"robust": {"epochs": 2}},
        "curve_epochs": 1,
        "curve_attacked": 2,
        "sampler_batches": 5,
        "published": "published: nowhere",
        "expected": [
            {"measure": "ers", "higher": "HM[S,g_LGA]&ICS", "lower": "regular[R]", "by": 200, "published": [2, 1]},
            {"measure": "recall_at_1", "higher": "regular[R]", "lower": "HM[S,g_LGA]&ICS", "by": -100},
        ],
    }
    if "rows" in changes:
        del content["expected"]  # of rows that are no more
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return path


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def read_trials(results: Path) -> list[dict[str, Any]]:
    """The finished trials in a folder of results, by file name."""
    return [read_json(path) for path in sorted((results / "trials").glob("*.json"))]


def command(folder: Path, study: Path, **changes: Any) -> Command:
    options: dict[str, Any] = {
        "study": str(study),
        "results": folder / "results",
        "launch": Launch(runs=folder / "runs", device="cpu", threads=1),
    }
    return Command(**(options | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Command]:
    folder = tmp_path_factory.mktemp("study")
    asked = command(folder, write_study(folder))
    results, missing = run_study(asked, lambda _: None)
    assert missing == 0
    return results, asked


def test_every_trial_is_a_file_and_the_table_holds_their_means(finished: tuple[Path, Command]) -> None:
    results, _ = finished
    files = read_trials(results)
    assert [(file["title"], file["seed"]) for file in files] == [
        ("HM[S,g_LGA]&ICS", 0),
        ("HM[S,g_LGA]&ICS", 1),
        ("regular[R]", 0),
    ]
    rows = {row["title"]: row for row in read_json(results / "study.json")["rows"]}
    robust = [file for file in files if file["title"] == "HM[S,g_LGA]&ICS"]
    assert rows["HM[S,g_LGA]&ICS"]["ers"]["mean"] == pytest.approx(np.mean([f["robustness"]["ers"] for f in robust]))
    assert rows["HM[S,g_LGA]&ICS"]["cost"] == 3  # η = 2
    assert rows["regular[R]"]["cost"] == 1
    assert robust[0]["robustness"]["ers"] != robust[1]["robustness"]["ers"]
    assert all(file["config"]["data"]["root"] is None for file in files)


def test_curves_begin_at_the_shared_start(finished: tuple[Path, Command]) -> None:
    results, _ = finished
    files = {(file["title"], file["seed"]): file for file in read_trials(results)}
    regular, robust = files["regular[R]", 0]["curve"], files["HM[S,g_LGA]&ICS", 0]["curve"]
    assert [point["epoch"] for point in regular] == [0, 1, 2]
    assert regular[0] == robust[0]
    assert regular[-1] != robust[-1]
    assert len(files["regular[R]", 0]["log"]["triplet_loss"]) > 0


def test_expectations_are_compared_with_the_measurement(finished: tuple[Path, Command]) -> None:
    results, _ = finished
    study = read_json(results / "study.json")
    rows = {row["title"]: row for row in study["rows"]}
    robust, regular = rows["HM[S,g_LGA]&ICS"], rows["regular[R]"]
    missed, met = study["expected"]
    assert missed["difference"] == pytest.approx(robust["ers"]["mean"] - regular["ers"]["mean"])
    assert not missed["holds"]
    recalls = [100 * row["metrics"]["recall_at_1"]["mean"] for row in (regular, robust)]
    assert met["difference"] == pytest.approx(recalls[0] - recalls[1])
    assert met["holds"]
    page = (results / "README.md").read_text(encoding="utf-8")
    assert "| expected | measured | | published: nowhere |" in page
    [line] = [line for line in page.splitlines() if line.startswith("| ERS of")]
    assert line.startswith("| ERS of HM[S,g_LGA]&ICS above regular[R] by 200 |")
    assert line.endswith("| no | 2 against 1 |")


def test_expectations_of_missing_rows_are_left_out(finished: tuple[Path, Command]) -> None:
    study = load_study(finished[1].study)
    assert summarize(study, trials(study), {}, {})["expected"] == []


def test_published_figures_are_those_of_the_paper() -> None:
    rows = {row["defense"]: row for row in read_csv(PAPER_TABLES) if (row["dataset"], row["eta"]) == ("CUB", "8")}
    columns = {"ers": "ERS", "recall_at_1": "R@1"}
    told = [one for one in load_study("caltech101-short").expected if one.published]
    assert len(told) >= 3
    for one in told:
        assert one.published == tuple(float(rows[title][columns[one.measure]]) for title in (one.higher, one.lower))


@pytest.mark.parametrize(
    ("name", "title", "recipe"),
    [
        ("demo", "HM[S,g_LGA]&ICS", "demo-paper"),
        ("caltech101-short", "HM[S,g_LGA]&ICS", "caltech101-paper"),
    ],
)
def test_rows_of_studies_are_recipes(name: str, title: str, recipe: str) -> None:
    row = next(trial.config for trial in trials(load_study(name)) if trial.title == title)
    config = load_recipe(recipe)
    assert (row.robust, row.robust_stages, row.warmup, row.data) == (
        config.robust,
        config.robust_stages,
        config.warmup,
        config.data,
    )


def test_the_page_shows_rows_and_plots(finished: tuple[Path, Command]) -> None:
    results, _ = finished
    page = (results / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\| HM\[S,g_LGA\]&ICS \| 3 \| 0, 1 \|", page)
    assert "E[H] of the samplers" in page
    for plot in ("ers_recall.svg", "ers_cost.svg", "curves.svg", "destinations.svg", "samplers.svg"):
        assert f"({plot})" in page
        assert ElementTree.parse(results / plot).getroot().tag.endswith("svg")


def test_running_a_finished_study_changes_nothing(finished: tuple[Path, Command]) -> None:
    results, asked = finished
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    heard: list[StageProgress] = []
    run_study(asked, heard.append)
    assert heard == []
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_killed_study_of_two_jobs_resumes_to_the_same_results(finished: tuple[Path, Command]) -> None:
    results, _ = finished
    folder = results.parent.parent
    arguments = [
        sys.executable,
        str(ROOT / "trainer/study.py"),
        str(folder / "study.yaml"),
        *("--results", str(folder / "again"), "--runs", str(folder / "other-runs"), "--device", "cpu"),
        *("--checkpoint-every", "1", "--jobs", "2", "--threads", "2"),
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    logs = folder / "other-runs"
    deadline = time.monotonic() + PATIENCE_S
    while not list(logs.glob("study-small/*/checkpoints/robust.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not alive  # the workers end with the command
    launch = Launch(runs=logs, device="cpu", threads=1)
    _, missing = run_study(
        command(folder, folder / "study.yaml", results=folder / "again", launch=launch), lambda _: None
    )
    assert missing == 0

    def results_of(place: Path) -> dict[str, Any]:
        return {
            trial["key"]: (trial["robustness"]["figures"], trial["metrics"], trial["curve"])
            for trial in read_trials(place)
        }

    assert results_of(folder / "again" / "small") == results_of(results)


def test_a_loss_that_is_not_finite_is_a_result(tmp_path: Path) -> None:
    rows = [{"defense": "minmax[S]"}, {"defense": "regular[S]"}]
    lethal = {"robust": {"learning_rate": 1e30, "averaging": 0.0}}
    study = write_study(tmp_path, rows=[{**rows[0], "changes": lethal}, rows[1]], curve_epochs=0, sampler_batches=0)
    results, missing = run_study(command(tmp_path, study), lambda _: None)
    assert missing == 0
    summary = read_json(results / "study.json")
    assert "lower the learning rate" in summary["rows"][0]["failures"][0]
    assert "failed (1)" in (results / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["caltech101", "caltech101-short"])
def test_rows_share_the_warm_up_and_cover_the_defenses_of_the_paper(name: str) -> None:
    planned = trials(load_study(name))
    assert len({trial.key for trial in planned}) == len(planned)
    starts = {trial.warmup_key for trial in planned if trial.seed == 0 and not trial.options.warmup_epsilon}
    assert len(starts) == 1
    asked = {
        "regular[R]", "regular[S]", "EST[R]", "ACT[R]", "ACT[S]", "HM[R,M]", "HM[S,M]", "HM[S,g_B(M)]",
        "HM[S,-gamma/2]", "HM[S,g_LGA]", "HM[S,g_LGA]&ICS", "HM[S,0]", "minmax[S]", "TRIDE[S]",
    }  # fmt: skip
    assert asked <= {trial.options.defense for trial in planned}


@pytest.mark.parametrize("name", study_names())
def test_every_study_is_valid(name: str) -> None:
    assert trials(load_study(name))


def test_titles_of_a_plot_cover_no_point_bar_or_title() -> None:
    generator = np.random.default_rng(0)
    frame = np.array([0.0, 0.0, 400.0, 250.0])
    centers = np.concatenate([generator.uniform([150, 80], [250, 160], (12, 2)), [[395.0, 245.0], [4.0, 4.0]]])
    sizes = np.column_stack([generator.uniform(20, 90, len(centers)), np.full(len(centers), 8.0)])
    bars = np.column_stack([centers, centers])
    bars[:, 1] -= 12
    bars[:, 3] += 12
    offsets = np.array(title_offsets(centers, sizes, frame, bars))
    ends = centers + offsets
    left = np.where(offsets[:, 0] > 0, ends[:, 0], ends[:, 0] - sizes[:, 0])
    boxes = np.column_stack([left, ends[:, 1] - 4, left + sizes[:, 0], ends[:, 1] + 4])
    assert (boxes[:, :2] >= frame[:2]).all()
    assert (boxes[:, 2:] <= frame[2:]).all()
    marks = np.column_stack([centers - 4, centers + 4])
    for number, box in enumerate(boxes):
        for other in (*marks, *bars, *boxes[:number]):
            assert (box[2:] <= other[:2]).any() or (other[2:] <= box[:2]).any()


def test_each_family_has_its_own_color_and_marker() -> None:
    found = line_styles(["HM[S,M]", "NEW[S]", "min-max[S]", "N/A[R]", "HM[R,M]&ICS", "OTHER"])
    assert list(found) == ["HM", "NEW", "minmax", "regular", "OTHER"]
    assert len({color for color, _ in found.values()}) == len({marker for _, marker in found.values()}) == 5


def test_plots_mark_collapsed_rows_and_list_the_families(tmp_path: Path) -> None:
    import matplotlib as mpl

    summary, done = results_of_study("caltech101-short")
    summary["rows"][0]["defense"] = "NEW[S]"  # of a family that nobody chose a color for
    with mpl.rc_context({"svg.fonttype": "none"}):
        assert len(write_plots(summary, [*done, done[0] | {"log": {}}], tmp_path)) == 5
    for name in ("ers_recall", "ers_cost"):
        text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        for family in ("NEW", "HM", "minmax", "hollow: collapsed"):
            assert f"<!-- {family} -->" in text


def test_missing_trials_are_named(finished: tuple[Path, Command]) -> None:
    _, asked = finished
    study = load_study(asked.study)
    planned = trials(study)
    summary = summarize(study, planned, {}, {})
    assert summary["missing"] == ["regular[R] · seed 0", "HM[S,g_LGA]&ICS · seed 0", "HM[S,g_LGA]&ICS · seed 1"]
    assert "Not done yet (3 of 3 trials): regular[R] (seed 0); HM[S,g_LGA]&ICS (seeds 0, 1)." in markdown(summary, [])


def test_mean_hardness_agrees_with_a_loop_and_samplers_are_ordered() -> None:
    """On embeddings with class structure: R < M < S < D ≤ H, as the paper measures on its pretrained network."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40).repeat_interleave(12)
    centers, spread, shared = (
        torch.nn.functional.normalize(torch.randn(rows, 64, generator=generator), dim=1) for rows in (40, 480, 1)
    )
    embeddings = torch.nn.functional.normalize(0.8 * centers[labels] + spread + shared, dim=1)
    found = hardness_by_sampler(embeddings, labels, pairs=56, batches=60, seed=0, report=lambda *_: None)
    means = {name: entry["mean"] for name, entry in found.items()}
    assert means["R"] < means["M"] < means["S"] < means["D"] <= means["H"]
    triplets = draw_triplets(Sampler.HARDEST, embeddings[:100], labels[:100], generator=generator)
    loop = [
        float((embeddings[a] - embeddings[p]).norm() - (embeddings[a] - embeddings[n]).norm())
        for a, p, n in zip(triplets.anchor, triplets.positive, triplets.negative, strict=True)
    ]
    assert float(hardness(*triplets.gather(embeddings[:100])).mean()) == pytest.approx(np.mean(loop), abs=1e-5)


def test_nested_changes_are_merged() -> None:
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}


def test_epochs_of_a_row_clear_the_updates_of_the_recipe() -> None:
    recipe = {"robust": {"epochs": 10.0, "updates": 57}}
    assert merged(recipe, {"robust": {"epochs": 2}}) == {"robust": {"epochs": 2, "updates": None}}
    assert merged(recipe, {"robust": {"updates": 3}})["robust"]["updates"] == 3
    assert merged(recipe, {"robust": {"epochs": 2}}, {"robust": {"updates": 3}})["robust"]["updates"] == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": [{"defense": "HM[S,q]"}]}, "'q'"),
        ({"rows": []}, "at least one row"),
        ({"rows": [{"defense": "regular[R]"}, {"defense": "regular[R]"}]}, "twice"),
        (
            {"rows": [{"defense": "EST[R]", "changes": {"robust": {"steps": n}}} for n in (2, 4)]},
            r"two rows are called EST\[R\] but differ in robust.steps; give each a title",
        ),
        ({"rows": [{"defense": "ACT[R]", "seeds": [n]} for n in (0, 1)]}, "differ in seeds"),
        (
            {"rows": [{"defense": "ACT[R]", "changes": {"robust": {"defense": "EST[R]"}}}]},
            r"row ACT\[R\] changes robust.defense to EST\[R\]",
        ),
        ({"changes": {"robust": {"defense": "EST[R]"}}}, "set the row's `defense`"),
        ({"changes": {"seed": 3}}, "set `seeds`"),
        ({"rows": [{"defense": "ACT[R]"}], "seeds": []}, "has no seeds"),
        ({"seeds": [-1]}, "not -1"),
        ({"rows": [{"defense": "ACT[R]", "seeds": [2**32]}]}, "a seed must be from 0"),
        ({"seedz": [1]}, "unknown field seedz; the fields are name, recipe, rows"),
        (
            {"rows": [{"defense": "ACT[R]", "recipe": "demo"}]},
            "unknown field rows.0.recipe; the fields are defense, title, changes, seeds, settings_of, settings",
        ),
        ({"seeds": ["zero"]}, "seeds.0: Input should be a valid integer"),
        ({"name": "../up"}, "'../up'"),
        ({"curves": {"c": ["ACT[S]"]}}, r"curves of ACT\[S\], which is not a row"),
        (
            {"expected": [{"measure": "ers", "higher": "ACT[R]", "lower": "regular[R]"}]},
            r"ACT\[R\], which is not a row",
        ),
        ({"reference": "ACT[S]"}, r"a reference of ACT\[S\], which is not a row"),
        ({"claims": [{"text": "t", "collapse": ["ACT[S]"]}]}, r"claims of ACT\[S\], which is not a row"),
        ({"claims": [{"text": "t", "row": "regular[R]"}]}, "needs either row and above, or collapse"),
        ({"settings_grid": {"learning_rate": []}}, "settings_grid.averaging: "),
        (
            {"rows": [{"defense": "ACT[R]"}, {"defense": "ACT[S]", "settings_of": "ACT[R]"}]},
            r"ACT\[S\] cannot have the settings of ACT\[R\], which chooses none",
        ),
        (
            {"rows": [{"defense": "FARE", "settings_of": "FARE", "settings": {"learning_rate": 1e-3, "averaging": 0}}]},
            "row FARE has both settings and settings_of",
        ),
        ({"changes": {"robust": {"epoch": 1}}}, "did you mean epochs"),
    ],
)
def test_mistakes_in_a_study_are_errors(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(HardrankError, match=says):
        trials(load_study(write_study(tmp_path, **changes)))


def test_a_file_that_is_not_a_study_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match=r"mine\.yaml does not exist"):
        load_study(path)
    for text, found in (("", "nothing"), ("plain", "str"), ("- a\n- b", "list")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"must contain the fields of a study .*, not {found}"):
            load_study(path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only": ("TRIDE",)}, r"no row's title contains 'TRIDE'; the rows are regular\[R\]; HM\[S,g_LGA\]&ICS"),
        ({"jobs": 0}, "--jobs must be at least 1, not 0"),
        ({"data_root": Path("nowhere")}, "--data-root nowhere is not a folder"),
    ],
)
def test_invalid_options_are_errors_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(HardrankError, match=says):
        run_study(command(tmp_path, write_study(tmp_path), **options), lambda _: None)
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "runs").exists()


def test_the_plan_includes_rows_that_do_not_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"defense": "regular[R]"}, {"defense": "regular[S]", "changes": {"robust": {"updates": 0}}}]
    study = write_study(tmp_path, rows=rows)
    assert (
        main([str(study), "--plan", "--results", str(tmp_path / "results"), "--device", "cpu", "--threads", "1"]) == 0
    )
    planned = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines() if line.startswith("regular[")]
    assert [(row[0], row[2] == "0", row[3]) for row in planned] == [
        ("regular[R]", False, planned[0][3]),
        ("regular[S]", True, "0.00*"),
    ]


def test_the_plan_counts_the_warm_up_of_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 images in batches of 16: 2 updates an epoch."""
    epochs = {"regular[R]": 6, "regular[S]": 0, "EST[R]": 2}
    rows = [{"defense": name, "changes": {"robust": {"warmup_epochs": count}}} for name, count in epochs.items()]
    run = open_study(command(tmp_path, write_study(tmp_path, rows=rows)))
    monkeypatch.setattr(estimate, "try_stage", lambda *_, **__: SimpleNamespace(seconds=3600.0))
    found = estimate.estimate_study(run, read_state(run), lambda _: None)
    assert found.start_hours == pytest.approx(2 * (6 + 0 + 2))


def test_the_published_results_are_not_written_by_default() -> None:
    command = Command()
    assert command.study == "demo"
    assert command.results == ROOT / "studies"


def results_of_study(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The table and the trials in docs/results."""
    folder = ROOT / "docs" / "results" / name
    return read_json(folder / "study.json"), read_trials(folder)


def test_the_page_shows_the_command_as_typed() -> None:
    study = load_study("demo")
    for typed, said in (("", "demo"), ("demo", "demo"), ("my studies/a.yaml", "'my studies/a.yaml'")):
        summary = summarize(study, trials(study), {}, {}, typed=typed)
        assert summary["command"] == f"hardrank study {said}"
        assert f"`hardrank study {said}`" in markdown(summary, [])


def test_a_page_without_results_has_no_line_on_images_and_hardware() -> None:
    study = load_study("demo")
    page = markdown(summarize(study, trials(study), {}, {}), [])
    assert "Attacked images" not in page
    assert "Hardware" not in page


def test_the_same_hardware_is_named_once() -> None:
    summary, _ = results_of_study("demo")
    (entry,) = summary["hardware"]
    summary["hardware"] = [entry, entry | {"threads": "1"}, entry | {"cores": "3"}]
    (line,) = [line for line in markdown(summary, []).splitlines() if line.startswith("Hardware")]
    assert line.count(entry["processor"]) == 2
    assert "| mean cosine | remark |" in markdown(summary, [])


ODD = "tricky [/b] row [bold]x :smile:"


def test_the_page_and_errors_are_printed_literally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text(f"| {ODD} |\n![ers recall](ers_recall.svg)\n", encoding="utf-8")
    monkeypatch.setattr("hardrank.trainer.study.run_study", lambda *_: (tmp_path, 0))
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert f"| {ODD} |" in shown
    assert "![ers recall](ers_recall.svg)" in shown
    assert main([ODD]) == 0
    monkeypatch.undo()
    assert main([ODD]) == 2
    assert ODD in capsys.readouterr().err


def test_each_stage_of_a_trial_has_its_own_progress() -> None:
    heard: list[StageProgress] = []
    told = label_stages(heard.append, "EST[R] · 0")
    for stage, done in (("warmup-2", 3), ("robust", 4), ("attacks on robust", 8)):
        told(StageProgress(stage=stage, done=done, total=8))
    assert [(each.stage, each.done, each.total) for each in heard] == [
        ("EST[R] · 0 · warm-up", 3, 8),
        ("EST[R] · 0 · training", 4, 8),
        ("EST[R] · 0 · attacks", 7, 8),  # the last comes with the ERS
    ]


def test_the_documented_study_is_valid_and_its_fields_are_explained(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(name: mine\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tiny,) = re.findall(r"`changes: (\{warmup.*?\})`,", page)
    path = tmp_path / "mine.yaml"
    path.write_text(example, encoding="utf-8")
    study = load_study(path)
    assert [trial.title for trial in trials(study)] == [*["HM[S,g_LGA]&ICS"] * 2, "EST[R]", "EST[R], fewer steps"]
    small = trials(replace(study, changes=yaml.safe_load(tiny)))
    assert {trial.config.evaluation.attacked for trial in small} == {8}
    assert [f"| `{entry.name}` |" for entry in fields(study) if f"\n| `{entry.name}` |" not in page] == []


def test_an_unknown_study_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="caltech101"):
        load_study("caltech")
    assert main(["caltech"]) == 2
    assert "'caltech'" in " ".join(capsys.readouterr().err.split())
