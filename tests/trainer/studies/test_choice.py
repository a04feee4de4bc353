"""The choice of settings on validation classes: the rule, and a study that chooses, stops and continues."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardrank.models.files import write_json
from hardrank.models.progress import OnProgress
from hardrank.trainer.data import load_dataset
from hardrank.trainer.recipe import config_to_json
from hardrank.trainer.runtime.launch import Launch
from hardrank.trainer.studies.choice import Settings, SettingsGrid, choose
from hardrank.trainer.studies.estimate import estimate_study
from hardrank.trainer.studies.parallel import run_trials
from hardrank.trainer.studies.plan import load_study
from hardrank.trainer.studies.schedule import read_state, selected
from hardrank.trainer.studies.trial import StudyRun, run_trial
from hardrank.trainer.studies.trial_list import Trial, candidates, trials
from hardrank.trainer.study import Command, main, open_study, run_study
from tests.trainer.tiny import write_images, write_recipe

GRID = SettingsGrid(learning_rate=(1e-3, 1e-4), averaging=(0.0, 0.9), validation_classes=2, updates=3, attacked=2)


def result(recall: float, ers: float | None, start: float = 0.5, cosine: float = 0.1) -> dict[str, Any]:
    return {
        "failure": "diverged" if ers is None else None,
        "start": {"recall_at_1": start},
        "metrics": {"recall_at_1": recall},
        "robustness": {"ers": ers, "mean_cosine": cosine},
    }


@pytest.mark.parametrize(
    ("measured", "place", "reached"),
    [
        ([(0.5, 10), (0.46, 20), (0.2, 60), (0.5, 15)], 1, True),  # the highest ERS with at least 0.45
        ([(0.1, 10), (0.3, 20), (0.2, 60), (0.0, None)], 1, False),  # the highest Recall@1 otherwise
        ([(0.9, None), (0.46, 20), (0.5, 20), (0.2, 60)], 1, True),  # a failure counts as 0; the first of equals
    ],
)
def test_the_highest_ers_that_keeps_recall_is_chosen(
    measured: list[tuple[float, float | None]], place: int, reached: bool
) -> None:
    results = {settings: result(*pair) for settings, pair in zip(GRID.settings, measured, strict=True)}
    choice = choose(GRID, results)
    assert (choice.chosen, choice.reached) == (GRID.settings[place], reached)
    assert choice.least_recall == pytest.approx(0.45)
    assert [one["ers"] for one in choice.candidates] == [ers for _, ers in measured]


def test_collapsed_embeddings_are_not_chosen_for_their_ers() -> None:
    collapsed, kept = result(0.5, 60, cosine=0.51), result(0.5, 20, cosine=0.5)
    results = dict(zip(GRID.settings, [collapsed, kept, result(0.5, 15), result(0.3, 30)], strict=True))
    assert choose(GRID, results).chosen == GRID.settings[1]
    all_collapsed = dict.fromkeys(GRID.settings, collapsed) | {GRID.settings[2]: result(0.5, 70, cosine=0.99)}
    assert choose(GRID, all_collapsed).chosen == GRID.settings[2]


def write_study(folder: Path) -> Path:
    """A study of three rows on tiny images, of which two choose among two learning rates."""
    evaluation = {"attacked": 4, "steps": 1, "strong_images": 0}
    recipe = write_recipe(
        folder / "recipe.yaml",
        write_images(folder / "images"),
        evaluation=evaluation,
        data={"name": "folder", "root": str(folder / "images"), "train_classes": 6},
    )
    content = {
        "name": "choosing",
        "recipe": str(recipe),
        "seeds": [0, 1],
        "changes": {"robust": {"updates": 4}, "warmup": {"epochs": 2}},
        "sampler_batches": 0,
        "settings_grid": {
            "learning_rate": [1e-3, 1e-5],
            "averaging": [0.5],
            "validation_classes": 2,
            "updates": 3,
            "attacked": 2,
        },
        "rows": [
            {"defense": "HM[S,g_LGA]"},
            {"defense": "HM[S,0]", "settings_of": "HM[S,g_LGA]"},
            {"defense": "regular[S]"},
        ],
        "curves": {"zero": ["regular[S]", "HM[S,0]"]},
        "reference": "HM[S,g_LGA]",
        "claims": [{"text": "g_LGA is better", "row": "HM[S,g_LGA]", "above": ["zero"]}],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("choosing")
    return Command(
        study=str(write_study(folder)),
        results=folder / "results",
        launch=Launch(runs=folder / "runs", device="cpu", threads=1),
    )


class Training:
    """Trains the first trial, and gives the others its result with another ERS, since each takes seconds."""

    def __init__(self) -> None:
        self.first: dict[str, Any] | None = None
        self.interrupted = False

    def run(self, study_run: StudyRun, trial: Trial, report: OnProgress) -> dict[str, Any]:
        """In place of `run_trial`; every other call is an interruption."""
        self.interrupted = not self.interrupted
        if not self.interrupted:
            raise KeyboardInterrupt
        if self.first is None:
            self.first = run_trial(study_run, trial, report)
            return self.first
        result = copy.deepcopy(self.first)
        result |= {"title": trial.title, "seed": trial.seed, "key": trial.key, "defense": trial.options.defense}
        result |= {"config": config_to_json(trial.config)}
        result["robustness"]["ers"] = 10 + len(trial.key) % 7 + trial.seed + 1e4 * trial.options.learning_rate
        write_json(study_run.result_file(trial), result)
        return result


@pytest.fixture(scope="module")
def finished(command: Command) -> Path:
    """The results of the study, which was interrupted before each second training and continued."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hardrank.trainer.studies.parallel.run_trial", Training().run)
        patch.setattr("hardrank.trainer.study.write_plots", lambda *_: [])
        for _ in range(10):
            try:
                folder, missing = run_study(command, lambda _: None)
            except KeyboardInterrupt:
                continue
            assert missing == 0
            return folder
    raise AssertionError("four settings and six trials take ten commands")


def test_settings_are_measured_on_validation_classes(finished: Path) -> None:
    (path,) = (path for path in (finished / "choice").iterdir() if "hm" in path.name and "0-001" in path.name)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["config"]["data"]["validation_classes"] == 2
    assert content["config"]["robust"]["updates"] == 3
    assert content["robustness"]["n"] == 2
    assert content["curve"] == []
    assert 0 <= content["start"]["recall_at_1"] <= 1


def test_each_row_chooses_on_validation_classes_and_trains_with_its_choice(finished: Path, command: Command) -> None:
    study = load_study(command.study)
    state = read_state(StudyRun(study=study, launch=command.launch, results=finished))
    assert (len(list((finished / "choice").iterdir())), len(list((finished / "trials").iterdir()))) == (4, 6)
    assert set(state.choices) == {"HM[S,g_LGA]", "regular[S]"}
    for trial in state.planned:
        leader = "regular[S]" if trial.row == "regular[S]" else "HM[S,g_LGA]"
        chosen = state.choices[leader].chosen
        assert (finished / "trials" / f"{trial.key}.json").exists()
        assert trial.options.learning_rate == chosen.learning_rate
        assert trial.config.data.validation_classes == 0
    summary = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    assert summary["choices"] == {title: choice.to_dict() for title, choice in state.choices.items()}
    assert summary["equal_recall"][0]["curve"] == "zero"
    assert summary["rows"][0]["ers"]["sd"] > 0
    page = (finished / "README.md").read_text(encoding="utf-8")
    assert "| row | learning rate | averaging |" in page
    assert "| g_LGA is better | " in page


def test_validation_classes_are_disjoint_from_test_classes(command: Command) -> None:
    study = load_study(command.study)
    (trial, *_), *_ = candidates(study).values()
    chosen_on, tested_on = (load_dataset(one.config.data) for one in (trial, trials(study)[0]))
    assert len(chosen_on.test.classes) == 2
    assert not set(chosen_on.test.classes) & (set(tested_on.test.classes) | set(chosen_on.train.classes))
    assert set(chosen_on.test.classes) <= set(tested_on.train.classes)


def test_another_machine_continues_from_the_files_of_finished_trials(
    finished: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("choice", "trials"):
        (tmp_path / "choosing" / name).mkdir(parents=True)
        for path in (finished / name).iterdir():
            if name == "choice" or "regular" not in path.name:
                (tmp_path / "choosing" / name / path.name).write_bytes(path.read_bytes())
    study = load_study(command.study)
    run = StudyRun(study=study, launch=command.launch, results=tmp_path / "choosing")
    state = read_state(run)
    assert [(trial.row, trial.seed) for trial in state.due] == [("regular[S]", 0), ("regular[S]", 1)]
    estimate = estimate_study(run, state, lambda _: None)
    assert [(row.title, row.trials, row.measured) for row in estimate.rows] == [("regular[S]", 2, False)]
    assert 0 < estimate.rows[0].training_hours < estimate.hours < 1
    arguments = [command.study, "--results", str(tmp_path), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hardrank.trainer.study.write_plots", lambda *_: [])
        assert main([*arguments, "--table"]) == 0
    assert "2 trials are not done yet" in " ".join(capsys.readouterr().out.split())
    assert "not decidable" in (tmp_path / "choosing" / "README.md").read_text(encoding="utf-8")
    assert main([*arguments, "--plan"]) == 0
    assert "In all:" in capsys.readouterr().out


def test_rows_come_in_order_and_wait_for_their_choice(command: Command, tmp_path: Path) -> None:
    study = load_study(command.study)
    state = read_state(StudyRun(study=study, launch=command.launch, results=tmp_path))
    assert [trial.row for trial in state.ready] == ["HM[S,g_LGA]"] * 2
    assert [trial.settings for trial in state.ready] == [
        Settings(learning_rate=rate, averaging=0.5) for rate in (1e-3, 1e-5)
    ]
    assert len(state.due) == 10
    only = read_state(StudyRun(study=study, launch=command.launch, results=tmp_path), only=["HM[S,0]"])
    assert [trial.row for trial in only.due] == ["HM[S,g_LGA]"] * 2 + ["HM[S,0]"] * 2


def test_a_row_with_settings_chooses_none(command: Command, tmp_path: Path) -> None:
    study = load_study(command.study)
    other = Settings(learning_rate=1e-5, averaging=0.5)
    row = replace(study.rows[0], title="the other rate", settings=other)
    state = read_state(
        StudyRun(
            study=replace(study, rows=(row,), reference="", claims=(), curves={}),
            launch=command.launch,
            results=tmp_path,
        )
    )
    assert [trial.options.learning_rate for trial in state.ready] == [1e-5, 1e-5]
    assert [(trial.undecided, trial.settings) for trial in state.ready] == [(False, None)] * 2


@pytest.mark.parametrize(
    ("only", "titles"),
    [
        ([], ["ACT[R]", "ACT[R], η = 2", "EST[R]"]),
        (["ACT[R]"], ["ACT[R]"]),
        (["ACT"], ["ACT[R]", "ACT[R], η = 2"]),
        (["EST", "ACT[R]"], ["ACT[R]", "EST[R]"]),
        (["HM"], []),
    ],
)
def test_rows_are_selected_by_title_or_a_part_of_it(only: list[str], titles: list[str]) -> None:
    assert selected(["ACT[R]", "ACT[R], η = 2", "EST[R]"], only) == titles


def test_each_result_may_make_more_trials_ready(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    study_run = open_study(command)
    first, second, third = trials(study_run.study)[:3]
    results: list[str] = []

    def ready() -> list[Trial]:
        due = [first] if not results else [third, second]  # one more is more urgent after the first result
        return [trial for trial in due if trial.key not in results]

    def train(_: StudyRun, trial: Trial, report: OnProgress) -> dict[str, Any]:
        results.append(trial.key)
        return {}

    monkeypatch.setattr("hardrank.trainer.studies.parallel.run_trial", train)
    assert len(list(run_trials(study_run, ready, jobs=1, report=lambda _: None))) == 3
    assert results == [first.key, third.key, second.key]
