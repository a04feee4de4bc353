"""The plan of a study: a recipe, rows that change it, and seeds. A study is a YAML file of these fields."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hardrank.trainer.config import ConfigError
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.recipe import check_lengths, read_named, yaml_names
from hardrank.trainer.studies.choice import Settings, SettingsGrid
from hardrank.trainer.studies.claims import Claim

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
    settings_of: str = ""
    """Title of the row whose chosen settings this row has too; with `settings_grid`, rows without it choose their
    own."""
    settings: Settings | None = None
    """Settings that this row has without a choice, such as those that another row did not choose."""

    def __post_init__(self) -> None:
        if self.settings and self.settings_of:
            raise ConfigError(f"row {self.title or self.defense} has both settings and settings_of")
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
    """The rows, in the order of the table, in which they are trained too."""
    settings_grid: SettingsGrid | None = None
    """The learning rates and averagings among which each row chooses on validation classes; None for those of the
    recipe."""
    curves: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name → titles of the rows that form the curve of a defense over its strength, in ERS against Recall@1."""
    reference: str = ""
    """Title of the row at whose Recall@1 the curves are compared; empty for no comparison."""
    claims: tuple[Claim, ...] = ()
    """Claims that are judged on the results."""
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
        titles = set(map(title_of, self.rows))
        named = {
            "expectations": {title for one in self.expected for title in (one.higher, one.lower)},
            "curves": {title for curve in self.curves.values() for title in curve},
            "claims": {title for one in self.claims for title in (one.row, *one.above, *one.collapse)}
            - set(self.curves),
            "a reference": {self.reference},
            "settings": {row.settings_of for row in self.rows},
        }
        for what, found in named.items():
            if unknown := found - titles - {""}:
                raise ConfigError(f"study {self.name} has {what} of {', '.join(sorted(unknown))}, which is not a row")
        for row in self.rows:
            leader = _leader(self, row)
            if row.settings_of and (self.settings_grid is None or leader.settings_of or leader.settings):
                raise ConfigError(
                    f"row {title_of(row)} cannot have the settings of {row.settings_of}, which chooses none of its own"
                )


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


def _leader(study: Study, row: StudyRow) -> StudyRow:
    """Return the row that chooses the settings of `row`."""
    return next((one for one in study.rows if title_of(one) == row.settings_of), row)


def study_names() -> list[str]:
    """Return the names of the studies that come with hardrank, in alphabetical order."""
    return yaml_names(STUDIES)


def load_study(study: str | Path) -> Study:
    """Read a study.

    Args:
        study: The name of a study that comes with hardrank, or the path of a YAML file.

    Raises:
        ConfigError: the file does not exist, is not YAML, or has unknown fields or invalid values.
    """
    path, content = read_named(study, STUDIES, kind="study")
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else type(content).__name__
        raise ConfigError(f"{path} must contain the fields of a study (see docs/studies.md), not {found}")
    check_lengths(content, source=str(path))
    try:
        return TypeAdapter(Study).validate_python(dict(content))
    except ValidationError as error:
        entry = error.errors()[0]
        raise ConfigError(f"{path}: {_problem(entry['loc'], entry['type'], entry['msg'])}") from error


def _problem(where: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(map(str, where))
    if kind == "unexpected_keyword_argument":
        owners = {"rows": StudyRow, "expected": Expectation, "claims": Claim, "settings_grid": SettingsGrid}
        owner = owners.get(str(where[0]), Study) if len(where) > 1 else Study
        return f"unknown field {name}; the fields are {', '.join(entry.name for entry in fields(owner))}"
    return f"{name}: {message}"


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings merged, the later ones taking precedence; `epochs` clears `updates` of an earlier one."""
    result: dict[str, Any] = {}
    for layer in layers:
        if layer.get("epochs") is not None and result.get("updates") is not None:
            result["updates"] = None
        for name, value in layer.items():
            below = result.get(name)
            nested = isinstance(value, Mapping) and isinstance(below, Mapping)
            result[name] = merged(below, value) if nested else value  # type: ignore[arg-type]
    return result
