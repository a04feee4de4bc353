"""Reads and writes configurations. A recipe is a YAML file of the fields of `Config`."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from hardrank.models.errors import HardrankError
from hardrank.trainer.config import Config, ConfigError

RECIPES: Final = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with hardrank, in alphabetical order."""
    return yaml_names(RECIPES)


def yaml_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in a folder, in alphabetical order."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_recipe(recipe: str | Path) -> Config:
    """Read a recipe.

    Args:
        recipe: The name of a recipe that comes with hardrank, or the path of a YAML file.

    Raises:
        ConfigError: the file does not exist, is not YAML, or has unknown fields or invalid values.
    """
    path, content = read_named(recipe, RECIPES, kind="recipe")
    check_lengths(content, source=str(path))
    return parse_config(content, source=str(path))


def read_named(name: str | Path, folder: Path, *, kind: str) -> tuple[Path, object]:
    """Read a YAML file: one of `folder` by its name, or any by its path.

    Args:
        name: See above.
        folder: The files that come with hardrank.
        kind: What they are, such as `recipe`, for errors.

    Returns:
        The path of the file, and its content.

    Raises:
        ConfigError: the file does not exist or is not YAML.
    """
    names = yaml_names(folder)
    path = folder / f"{name}.yaml" if str(name) in names else Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"unknown {kind} {str(name)!r}; choose one of {', '.join(names)}, or a .yaml file")
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; choose one of {', '.join(names)}, or correct the path")
    try:
        return path, yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error


def check_lengths(content: object, *, source: str) -> None:
    """Raise `ConfigError` where a file sets both `epochs` and `updates` of a stage, of which one would have no effect.

    Configurations that the program wrote have both.
    """
    if isinstance(content, Mapping):
        if content.get("epochs") is not None and content.get("updates") is not None:
            raise ConfigError(
                f"{source} sets epochs: {content['epochs']} and updates: {content['updates']} of the same stage; "
                "remove one"
            )
        content = list(content.values())
    for part in content if isinstance(content, list) else ():
        check_lengths(part, source=source)


@cache
def _adapter() -> TypeAdapter[Config]:
    """Built once, which takes longer than reading a configuration."""
    return TypeAdapter(Config)


def parse_config(content: object, *, source: str) -> Config:
    """Build a configuration from plain values; `source` names their origin in errors."""
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{source} must contain fields of the configuration (name, data, …), not {type(content).__name__}"
        )
    try:
        return _adapter().validate_python(dict(content))
    except ValidationError as error:
        problems = "; ".join(_problem(entry) for entry in error.errors())
        raise ConfigError(f"{source}: {problems}") from error
    except HardrankError as error:
        raise ConfigError(f"{source}: {error}") from error


def _problem(entry: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in entry["loc"])
    if entry["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        near = difflib.get_close_matches(str(entry["loc"][-1]), _field_names(Config), n=1)
        return f"unknown option {where}" + (f"; did you mean {near[0]}?" if near else "")
    return f"{where}: {entry['msg']}"


def _field_names(owner: type) -> list[str]:
    assert is_dataclass(owner)
    names = []
    for entry in fields(owner):
        names.append(entry.name)
        if isinstance(entry.type, type) and is_dataclass(entry.type):
            names += _field_names(entry.type)
    return names


def config_to_json(config: Config) -> dict[str, Any]:
    """Return the configuration as JSON values, as in a card; `parse_config` reads it back."""
    plain: dict[str, Any] = _adapter().dump_python(config, mode="json")
    return plain


def changed_fields(one: Config, other: Config) -> list[str]:
    """Return the names of the fields that differ, such as `robust.epochs`."""
    return _changed(asdict(one), asdict(other), "")


def _changed(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> list[str]:
    names = []
    for key in one:
        a, b = one[key], other[key]
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += _changed(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names
