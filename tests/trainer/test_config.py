"""Recipes and the configuration: reading, JSON, and errors."""

import json
from pathlib import Path

import pytest

from hardrank.trainer.config import Config, ConfigError, pixels
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.recipe import changed_fields, config_to_json, load_recipe, parse_config, recipe_names

SMALL = {
    "name": "small",
    "data": {"name": "demo"},
    "preprocessing": {"resize": 36, "crop": 32},
    "architecture": {"image_size": 32},
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name: str) -> None:
    config = load_recipe(name)
    for model in (config.benign, config.robust):
        parse_defense(model.defense, margin=model.margin)
    first = (Path(__file__).parents[2] / "trainer" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    assert first.startswith("# hardrank train"), "a recipe opens with its command"


def test_the_recipes_of_the_paper_have_its_settings() -> None:
    for name, ics in (("cub", "&ICS"), ("cars", "&ICS"), ("sop", "&ICS(lambda=0.05)")):
        config = load_recipe(name)
        assert (config.architecture.backbone, config.architecture.dimension) == ("resnet18", 512)
        assert (config.preprocessing.resize, config.preprocessing.crop) == (256, 224)
        assert config.initialisation == "imagenet"
        assert config.robust.defense == f"HM[S,g_LGA]{ics}"
        robust = config.robust
        assert (robust.epochs, robust.pairs, robust.steps, robust.margin) == (75, 56, 8, 0.2)
        assert (robust.learning_rate, robust.weight_decay, robust.schedule) == (1e-5, 4e-4, "constant")
        assert robust.epsilon == pytest.approx(8 / 255)
        assert robust.alpha == pytest.approx(1 / 255)
        assert config.evaluation.attacked is None


def test_a_configuration_survives_a_round_trip_through_json() -> None:
    config = parse_config(SMALL, source="test")
    again = parse_config(json.loads(json.dumps(config_to_json(config))), source="test")
    assert again == config


def test_a_yaml_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(SMALL | {"robust": {"epsilon": "4/255"}}), encoding="utf-8")
    assert load_recipe(path).robust.epsilon == pytest.approx(4 / 255)


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), (0.5, 0.5), ("0.5", 0.5), ("2 / 4", 0.5)])
def test_budgets_may_be_fractions(text: str | float, value: float) -> None:
    assert pixels(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"robust": {"epcohs": 3}}, "unknown option robust.epcohs; did you mean epochs"),
        ({"color": 1}, "unknown option color"),
        ({"robust": {"epochs": "many"}}, "robust.epochs: .*number"),
        ({"robust": {"epochs": 0}}, "epochs must be above 0"),
        ({"robust": {"averaging": 1.0}}, "averaging must be from 0 to below 1, not 1.0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"data": {"name": "folder", "split_seed": -1}}, "data.split_seed must be at least 0"),
        ({"robust": {"steps": -1}}, "steps must be at least 0"),
        ({"robust": {"pairs": 1}}, "pairs must be at least 2"),
        ({"robust": {"weight_decay": -1e-4}}, "weight_decay must be at least 0"),
        ({"warmup": {"weight_decay": -1e-4}}, "weight_decay must be at least 0"),
        ({"warmup": {"label_smoothing": 1}}, "label_smoothing must be from 0 to below 1"),
        ({"warmup": {"label_smoothing": -0.1}}, "label_smoothing must be from 0 to below 1"),
        ({"warmup": {"epochs": 0}}, "epochs must be above 0"),
        ({"warmup": {"batch_size": 0}}, "batch_size must be above 0"),
        ({"warmup": {"updates": 0}}, "updates must be at least 1"),
        ({"warmup": {"anchor": 1}}, "warmup.anchor .*imagenet-warmup, not warmup"),
        ({"warmup": {"anchor_size": 8}}, "anchor_size must be at least 32"),
        ({"warmup": {"image_size": 8}}, "image_size must be at least 32"),
        ({"warmup": {"image_size": 96}}, r"too small for crops of 32 .* and 96 \(warmup.image_size\)"),
        ({"augmentation": {"min_area": 0.5, "resize": 30}}, "squares of 30 pixels, too small for crops of 32"),
        ({"augmentation": {"min_area": 2}}, "augmentation.min_area is 2"),
        ({"benign": {"warmup_epochs": 2}, "robust": {"warmup_epochs": 3}}, "warmup_epochs must be the same, or 0"),
        ({"robust": {"warmup_epochs": -1}}, "warmup_epochs must be at least 0"),
        ({"robust": {"epsilon": "8/x"}}, "robust.epsilon"),
        ({"robust": {"epsilon": 8}}, r"epsilon .* not 8; write 8/255"),
        ({"evaluation": {"attacked": 0}}, "attacked ≥ 1"),
        ({"name": "../up"}, "'../up'"),
        ({"weights": "a.pth"}, "a.pth.*imagenet"),
        ({"preprocessing": {"resize": 72, "crop": 64}}, r"crop \(64\) and architecture.image_size \(32\)"),
        ({"preprocessing": {"resize": 30, "crop": 32}}, "resize"),
        ({"robust": {"schedule": "sinus"}}, "robust.schedule"),
    ],
)
def test_invalid_values_are_errors_that_name_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(SMALL | change, source="test")


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not YAML"), ("- 1", "not list"), (None, "does not exist.*demo")]
)
def test_a_file_that_is_not_a_recipe_is_an_error(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_changed_fields_are_named_by_their_path() -> None:
    one = parse_config(SMALL, source="test")
    other = parse_config(SMALL | {"seed": 3, "robust": {"defense": "ACT[R]"}}, source="test")
    assert changed_fields(one, other) == ["seed", "robust.defense"]
    assert changed_fields(one, one) == []
    assert isinstance(one, Config)
