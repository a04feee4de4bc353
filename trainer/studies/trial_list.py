"""The trials of a study: each row with each of its seeds, and the settings among which rows choose."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from hardrank.trainer.config import Config, ConfigError, RobustStart, TrainingOptions
from hardrank.trainer.data.augmentation import AugmentationOptions
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.defenses.regular import Regular
from hardrank.trainer.recipe import changed_fields, config_to_json, load_recipe, parse_config
from hardrank.trainer.studies.choice import Settings
from hardrank.trainer.studies.plan import Study, StudyRow, merged, title_of

_AFTER_THE_START: Final = frozenset({"benign", "robust", "robust_start", "robust_stages", "evaluation"})
"""Fields of the configuration that the initial weights do not depend on."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training and its measurement: a row with one of its seeds."""

    title: str
    """Of the row, with the settings that this training tries, if any."""
    row: str
    """Title of the row."""
    seed: int
    config: Config
    settings: Settings | None = None
    """The settings of the grid that this training tries on validation classes; None for a trial of the table."""
    undecided: bool = False
    """Whether the settings of its row are not chosen yet, so that its configuration is not the final one."""

    @property
    def options(self) -> TrainingOptions:
        """Options of the training."""
        return self.config.robust

    @property
    def cost(self) -> int:
        """Forward-backward passes per iteration, as counted in the paper: η + 1, or 1 without an adversary."""
        defense = parse_defense(self.options.defense, margin=self.options.margin)
        return 1 if isinstance(defense, Regular) else self.options.steps + 1

    @property
    def key(self) -> str:
        """Name of its files: a readable part, and a digest of everything that determines the result."""
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.title).strip("-").lower()
        return f"{readable}-seed{self.seed}-{digest(trial_content(self))}"

    @property
    def warmup_key(self) -> str:
        """Name of the warm-up, which trials share."""
        content = trial_content(self)
        shared = {name: value for name, value in content.items() if name not in _AFTER_THE_START}
        epsilon = content["robust"]["warmup_epsilon"]
        own = {name: content["robust"][name] for name in ("warmup_epochs",) if name in content["robust"]}
        return f"start-{255 * epsilon:g}-seed{self.seed}-{digest({**shared, **own, 'epsilon': epsilon})}"


def trial_content(trial: Trial) -> dict[str, Any]:
    """Return the configuration as JSON values, without names and paths, which do not affect the result."""
    content = config_to_json(trial.config)
    del content["name"], content["benign"]
    _leave_out_defaults(content)
    content["data"] = {name: value for name, value in content["data"].items() if name != "root"}
    return content


def _leave_out_defaults(content: dict[str, Any]) -> None:
    """Leave out fields that were added later, where they have their defaults: recorded trials keep their names."""
    for owner, names in _ADDED_FIELDS.items():
        parts = [content[owner]] if owner else [content]
        parts += content.get("robust_stages", []) if owner == "robust" else []
        for part in parts:
            for name in [name for name, default in names.items() if part.get(name) == default]:
                del part[name]


_ADDED_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "": {"robust_start": "initial", "robust_stages": [], "weights": None, "augmentation": vars(AugmentationOptions())},
    "architecture": {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
    "preprocessing": {"fit": "square", "interpolation": "bilinear"},
    "evaluation": {"strong_images": 32},
    "data": {"validation_classes": 0, "train_images_per_class": None, "extra_train_classes": None},
    "warmup": {
        "benign_share": 0.5,
        "epsilon_ramp": 0.0,
        "freeze_batch_norm": False,
        "anchor": 0.0,
        "anchor_size": None,
        "averaging": 0.0,
        "updates": None,
        "image_size": None,
    },
    "robust": {
        "updates": None,
        "random_start": False,
        "epsilon_ramp": 0.0,
        "warmup_epochs": None,
        "weight_perturbation": 0.0,
    },
}


def digest(content: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def trials(study: Study, *, data_root: Path | None = None, chosen: Mapping[str, Settings] | None = None) -> list[Trial]:
    """Return all rows with all their seeds, in the order of the table.

    Args:
        study: The study.
        data_root: Folder of the images, if it is not the one of the recipe.
        chosen: The settings that were chosen, by the title of the row that chose them; see `settings_grid`.

    Raises:
        ConfigError: a row has an invalid configuration, or the title of another row.
        DefenseError: a row has an unknown defense.
    """
    found = []
    base = config_to_json(load_recipe(study.recipe))
    rows: dict[str, tuple[StudyRow, Config]] = {}
    for row in study.rows:
        settings = row.settings or (chosen or {}).get(row.settings_of or title_of(row))
        config = _config(base, study, row, data_root, settings.as_changes() if settings else {})
        if config.robust_start is not RobustStart.INITIAL:
            raise ConfigError(f"study {study.name} trains no benign model; set robust_start: initial")
        title = title_of(row)
        if title in rows:
            former, other = rows[title]
            _reject_duplicate(study, title, changed_fields(other, config), (former.seeds, row.seeds))
        rows[title] = row, config
        for seed in row.seeds or study.seeds:
            undecided = study.settings_grid is not None and settings is None
            named = replace(config, seed=seed, name=study.name)
            found.append(Trial(title=title, row=title, seed=seed, config=named, undecided=undecided))
    keys = [trial.key for trial in found]
    if len(set(keys)) < len(keys):
        twice = next(trial.title for trial in found if keys.count(trial.key) > 1)
        raise ConfigError(f"study {study.name} names the row {twice!r} twice with the same seed and options")
    return found


def candidates(study: Study, *, data_root: Path | None = None) -> dict[str, list[Trial]]:
    """Return the trials of `settings_grid` by the title of the row that chooses among them; none without a grid."""
    grid, found = study.settings_grid, dict[str, list[Trial]]()
    base = config_to_json(load_recipe(study.recipe))
    for row in study.rows if grid else ():
        assert grid is not None
        if row.settings_of or row.settings:
            continue
        title = title_of(row)
        found[title] = [
            Trial(
                title=f"{title}, {settings.title}",
                row=title,
                seed=grid.seed,
                settings=settings,
                config=replace(
                    _config(base, study, row, data_root, merged(settings.as_changes(), grid.as_changes())),
                    seed=grid.seed,
                    name=study.name,
                ),
            )
            for settings in grid.settings
        ]
    return found


def _config(
    base: Mapping[str, Any], study: Study, row: StudyRow, data_root: Path | None, last: Mapping[str, Any]
) -> Config:
    """Return the configuration of a row, from that of the recipe; the changes of `last` win over those of the row."""
    robust = {"robust": {"defense": row.defense}}
    place = {"data": {"root": str(data_root)}} if data_root else {}
    content = merged(base, study.changes, row.changes, robust, place, last)
    return parse_config(content, source=f"study {study.name}, row {row.title or row.defense}")


def _reject_duplicate(study: Study, title: str, changed: list[str], seeds: tuple[tuple[int, ...], ...]) -> None:
    if changed:
        raise ConfigError(f"two rows are called {title} but differ in {', '.join(changed)}; give each a title")
    first, second = (set(own or study.seeds) for own in seeds)
    if first != second:
        raise ConfigError(f"two rows are called {title} but differ in seeds; make them one row with all of them")
    raise ConfigError(f"study {study.name} names the row {title!r} twice with the same options")
