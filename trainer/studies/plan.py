"""The plan of a study: a recipe, rows that change it, and seeds. A study is a YAML file of these fields."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from hardrank.trainer.config import (
    Config,
    ConfigError,
    RobustStart,
    TrainingOptions,
    changed_fields,
    config_to_json,
    load_recipe,
    parse_config,
)
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.defenses.regular import Regular

STUDIES: Final = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A row of the table: a defense, and other changes of the recipe."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    defense: str
    """The defense, in the paper's notation."""
    title: str = ""
    """Title in the table; the defense if empty."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the configuration that this row changes, nested as in a recipe."""
    seeds: tuple[int, ...] = ()
    """Seeds of this row; those of the study if empty."""

    def __post_init__(self) -> None:
        _check_seeds(self.seeds)
        _check_changes(self.changes, where=f"row {self.title or self.defense}", defense=self.defense)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """An expectation, stated before anything is measured: one row has more of a measure than another."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    measure: Literal["ers", "recall_at_1"]
    higher: str
    """Title of the row that is expected to be higher."""
    lower: str
    """Title of the other row."""
    by: float = 0.0
    """Minimum difference, in points of ERS, or of Recall@1 in %."""
    published: tuple[float, float] | None = None
    """Published values of the two rows, in the same units."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Rows that share a recipe, except for what they change."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    """Name of the folders of runs and results."""
    recipe: str
    """The recipe that all rows change; its `robust` part is trained."""
    rows: tuple[StudyRow, ...]
    """The rows, in the order of the table."""
    expected: tuple[Expectation, ...] = ()
    """Expectations, which are printed beside the measured values."""
    published: str = ""
    """Source of the published values in `expected`."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the configuration that all rows change, nested as in a recipe."""
    seeds: tuple[int, ...] = (0,)
    """Every row is trained and measured with each seed."""
    curve_epochs: float = 0.0
    """Epochs between measurements of recall and robustness during training; 0 for none."""
    curve_attacked: int = 32
    """Test images attacked at each of these measurements."""
    sampler_batches: int = 200
    """Batches for the mean hardness of each sampler; 0 to skip it."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ConfigError(f"the name of a study must have only letters, digits, - and _, not {self.name!r}")
        if not self.rows:
            raise ConfigError("a study needs at least one row")
        _check_seeds(self.seeds)
        _check_changes(self.changes, where=f"study {self.name}")
        if not self.seeds and not all(row.seeds for row in self.rows):
            raise ConfigError(f"study {self.name} has no seeds: leave out `seeds` for [0], or give each row its own")
        unknown = {title for one in self.expected for title in (one.higher, one.lower)} - set(map(title_of, self.rows))
        if unknown:
            raise ConfigError(f"study {self.name} has expectations of {', '.join(sorted(unknown))}, which is not a row")


def _check_seeds(seeds: Iterable[int]) -> None:
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ConfigError(f"a seed must be from 0 to 2^32 - 1, not {seed}")


def _check_changes(changes: Mapping[str, Any], *, where: str, defense: str | None = None) -> None:
    """Reject changes of what has a field of its own, which would silently override them."""
    robust = changes.get("robust")
    other = robust.get("defense", defense) if isinstance(robust, Mapping) else defense
    if other != defense:
        raise ConfigError(f"{where} changes robust.defense to {other}: set the row's `defense` instead")
    if "seed" in changes:
        raise ConfigError(f"{where} changes the seed: set `seeds` instead")


def title_of(row: StudyRow) -> str:
    """Return a row's title in the table."""
    return row.title or parse_defense(row.defense).name


_AFTER_THE_START: Final = frozenset({"benign", "robust", "robust_start", "robust_stages", "evaluation"})
"""Fields of the configuration that the initial weights do not depend on."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training and its measurement: a row with one of its seeds."""

    title: str
    seed: int
    config: Config

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
        part = content[owner] if owner else content
        for name, default in names.items():
            if part.get(name) == default:
                del part[name]


_ADDED_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "": {"robust_start": "initial", "robust_stages": []},
    "data": {"validation_classes": 0},
    "warmup": {
        "benign_share": 0.5,
        "epsilon_ramp": 0.0,
        "freeze_batch_norm": False,
        "anchor": 0.0,
        "anchor_size": None,
        "averaging": 0.0,
        "updates": None,
    },
    "robust": {"updates": None, "random_start": False, "epsilon_ramp": 0.0, "warmup_epochs": None},
}


def digest(content: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def study_names() -> list[str]:
    """Return the names of the studies that come with hardrank, in alphabetical order."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(study: str | Path) -> Study:
    """Read a study.

    Args:
        study: The name of a study that comes with hardrank, or the path of a YAML file.

    Raises:
        ConfigError: the file does not exist, is not YAML, or has unknown fields or invalid values.
    """
    path = STUDIES / f"{study}.yaml" if str(study) in study_names() else Path(study)
    if not path.is_file() and path.suffix in {".yaml", ".yml"}:
        raise ConfigError(f"{path} does not exist; the studies by name are {', '.join(study_names())}")
    if not path.is_file():
        raise ConfigError(f"unknown study {str(study)!r}; choose one of {', '.join(study_names())}, or a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else type(content).__name__
        raise ConfigError(f"{path} must contain the fields of a study (see docs/training.md), not {found}")
    try:
        return TypeAdapter(Study).validate_python(dict(content))
    except ValidationError as error:
        entry = error.errors()[0]
        raise ConfigError(f"{path}: {_problem(entry['loc'], entry['type'], entry['msg'])}") from error


def _problem(where: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(map(str, where))
    if kind == "unexpected_keyword_argument":
        owner = {"rows": StudyRow, "expected": Expectation}.get(str(where[0]), Study) if len(where) > 1 else Study
        return f"unknown field {name}; the fields are {', '.join(entry.name for entry in fields(owner))}"
    return f"{name}: {message}"


def trials(study: Study, *, data_root: Path | None = None) -> list[Trial]:
    """Return all rows with all their seeds, in the order of the table.

    Raises:
        ConfigError: a row has an invalid configuration, or the title of another row.
        DefenseError: a row has an unknown defense.
    """
    base = config_to_json(load_recipe(study.recipe))
    place = {"data": {"root": str(data_root)}} if data_root else {}
    found = []
    rows: dict[str, tuple[StudyRow, Config]] = {}
    for row in study.rows:
        content = merged(base, study.changes, row.changes, {"robust": {"defense": row.defense}}, place)
        config = parse_config(content, source=f"study {study.name}, row {row.title or row.defense}")
        if config.robust_start is not RobustStart.INITIAL:
            raise ConfigError(f"study {study.name} trains no benign model; set robust_start: initial")
        title = title_of(row)
        if title in rows:
            former, other = rows[title]
            _reject_duplicate(study, title, changed_fields(other, config), (former.seeds, row.seeds))
        rows[title] = row, config
        for seed in row.seeds or study.seeds:
            found.append(Trial(title=title, seed=seed, config=replace(config, seed=seed, name=study.name)))
    keys = [trial.key for trial in found]
    if len(set(keys)) < len(keys):
        twice = next(trial.title for trial in found if keys.count(trial.key) > 1)
        raise ConfigError(f"study {study.name} names the row {twice!r} twice with the same seed and options")
    return found


def _reject_duplicate(study: Study, title: str, changed: list[str], seeds: tuple[tuple[int, ...], ...]) -> None:
    if changed:
        raise ConfigError(f"two rows are called {title} but differ in {', '.join(changed)}; give each a title")
    first, second = (set(own or study.seeds) for own in seeds)
    if first != second:
        raise ConfigError(f"two rows are called {title} but differ in seeds; make them one row with all of them")
    raise ConfigError(f"study {study.name} names the row {title!r} twice with the same options")


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings merged, the later ones taking precedence."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = result.get(name)
            nested = isinstance(value, Mapping) and isinstance(below, Mapping)
            result[name] = merged(below, value) if nested else value  # type: ignore[arg-type]
    return result
