"""What a study does next: the settings of each row are chosen first, then its trials are trained, row after row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardrank.trainer.studies.choice import Choice, choose
from hardrank.trainer.studies.plan import title_of
from hardrank.trainer.studies.trial import StudyRun
from hardrank.trainer.studies.trial_list import Trial, candidates, trials


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """The trials of a study and their results so far. It is read from the result files alone."""

    choices: Mapping[str, Choice]
    """By the title of the row that chose."""
    planned: tuple[Trial, ...]
    """All trials of the table."""
    done: Mapping[str, dict[str, Any]]
    """Results of the finished ones by key."""
    due: tuple[Trial, ...]
    """What is to be trained: for each row in order the settings to try, then its trials."""

    @property
    def ready(self) -> tuple[Trial, ...]:
        """What can be trained now: all that is due up to the first choice, whose row has trials to come."""
        waiting = next((place for place, trial in enumerate(self.due) if trial.undecided), len(self.due))
        return self.due[:waiting]


def read_state(run: StudyRun, *, data_root: Path | None = None, only: Sequence[str] = ()) -> StudyState:
    """Read the results of a study, and find out what is due.

    Args:
        run: The study and the folder of its results.
        data_root: Folder of the images, if it is not the one of the recipe.
        only: Which rows are due, see `selected`.
    """
    study = run.study
    tried = candidates(study, data_root=data_root)
    choices: dict[str, Choice] = {}
    for title, options in tried.items():
        results = {one.settings: _read(run, one) for one in options if one.settings and run.result_file(one).exists()}
        if study.settings_grid is not None and len(results) == len(options):
            choices[title] = choose(study.settings_grid, results)
    chosen = {title: choice.chosen for title, choice in choices.items()}
    planned = trials(study, data_root=data_root, chosen=chosen)
    done = {
        trial.key: _read(run, trial) for trial in planned if not trial.undecided and run.result_file(trial).exists()
    }
    due: list[Trial] = []
    titles = selected([title_of(row) for row in study.rows], only)
    for row in study.rows:
        title = title_of(row)
        if title not in titles:
            continue
        own = [trial for trial in planned if trial.title == title and trial.key not in done]
        needed = tried.get(row.settings_of or title, ()) if any(trial.undecided for trial in own) else ()
        due += [one for one in needed if one not in due and not run.result_file(one).exists()]
        due += own
    return StudyState(choices=choices, planned=tuple(planned), done=done, due=tuple(due))


def selected(titles: Sequence[str], only: Sequence[str]) -> list[str]:
    """Return the titles that `only` names, all if it is empty.

    Each text of `only` is a title, or else stands for the titles that contain it: a title may contain another one.
    """
    return [
        title
        for title in titles
        if not only or any(text == title or (text not in titles and text in title) for text in only)
    ]


def _read(run: StudyRun, trial: Trial) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.result_file(trial).read_text(encoding="utf-8"))
    return content
