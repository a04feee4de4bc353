"""Recipes at other image sizes, with other networks, of other lengths, and without training."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from hardrank.models.preprocessing import Fit, Interpolation, Preprocessing
from hardrank.trainer.config import Config, ConfigError, TrainingOptions
from hardrank.trainer.main_job import MainJobResult
from hardrank.trainer.recipe import load_recipe, recipe_names
from hardrank.trainer.recipe_variants import at_size, refuse_unused, shortened, untrained, with_backbone, with_lengths
from hardrank.trainer.run import main


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that the command would run."""
    found = list[Config]()

    def run(config: Config, *_: object, **__: object) -> MainJobResult:
        found.append(config)
        return MainJobResult(Path())

    monkeypatch.setattr("hardrank.trainer.run.run_main_job", run)
    return found


def test_all_sizes_of_a_recipe_are_scaled() -> None:
    config = load_recipe("folder")
    small = at_size(config, 96)
    assert (small.preprocessing.resize, small.preprocessing.crop, small.architecture.image_size) == (102, 96, 96)
    assert (small.augmentation.resize, small.warmup.image_size, small.warmup.anchor_size) == (124, 72, 192)
    assert small.name == "folder-96"
    assert at_size(config, 128) == config


def test_sizes_that_a_recipe_does_not_have_stay_absent() -> None:
    small = at_size(load_recipe("demo"), 32)
    assert (small.augmentation.resize, small.warmup.image_size) == (None, None)


def test_another_pretrained_network_gets_its_own_input() -> None:
    config = load_recipe("folder")
    other = with_backbone(config, "resnet18")
    assert other.architecture.backbone == "resnet18"
    assert other.preprocessing == Preprocessing(
        resize=146, crop=128, fit=Fit.SHORTEST, interpolation=Interpolation.BILINEAR
    )
    assert with_backbone(config, "timm/regnety_032").preprocessing.resize == 134
    assert with_backbone(config, "timm/efficientnet_lite0") == config
    scratch = load_recipe("folder-scratch")
    assert with_backbone(scratch, "resnet18").preprocessing == scratch.preprocessing


def test_own_images_are_trained_with_the_settings_that_were_measured() -> None:
    measured, own = load_recipe("caltech101-scratch"), load_recipe("folder-scratch")
    assert replace(own, name=measured.name, data=measured.data) == measured


def test_own_images_are_fine_tuned_with_the_settings_that_were_measured() -> None:
    """The stages of `folder` have numbers of updates: those of the epochs of `caltech101`, of 2650 images."""
    measured, own = load_recipe("caltech101"), load_recipe("folder")

    def counted(options: TrainingOptions) -> TrainingOptions:
        updates = math.ceil(2650 * options.epochs / options.pairs)
        return replace(options, epochs=10, updates=updates)

    in_updates = replace(
        measured, robust=counted(measured.robust), robust_stages=tuple(map(counted, measured.robust_stages))
    )
    assert replace(own, name=measured.name, data=measured.data, evaluation=measured.evaluation) == in_updates


def test_the_options_change_the_defaults_of_others_together(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["folder", "--size=96", "--architecture.backbone", "resnet18", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "109" in words.partition("--preprocessing.resize")[2][:300]


def test_the_option_changes_the_defaults_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["folder", "--size", "96", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "102" in words.partition("--preprocessing.resize")[2][:300]
    assert "folder-96" in words


@pytest.mark.parametrize(("size", "message"), [("0", "--size must be at least 1, not 0"), ("small", "small")])
def test_a_size_must_be_a_number_of_pixels(size: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = _status("demo", "--size", size)
    assert status == 2
    captured = capsys.readouterr()
    assert message in " ".join((captured.out + captured.err).replace("│", " ").split())


def test_given_epochs_clear_the_updates_of_the_recipe() -> None:
    config = load_recipe("folder")
    assert (config.warmup.updates, config.robust.updates) == (2000, 48)
    given = with_lengths(config, {"--warmup.epochs", "--robust.epochs"})
    assert (given.warmup.updates, given.robust.updates) == (None, None)
    assert with_lengths(config, {"--robust.updates", "--warmup.updates"}) == config
    staged = replace(config, robust_stages=(config.robust, config.robust))
    assert [one.updates for one in with_lengths(staged, {"--robust-stages.1.epochs"}).robust_stages] == [48, None]


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_short_run_has_a_few_updates_of_every_stage_and_a_name_of_its_own(recipe: str) -> None:
    config, short = load_recipe(recipe), shortened(load_recipe(recipe))
    assert short.name == f"{config.name}-short"
    before = (config.benign, *config.robust_stages, config.robust)
    after = (short.benign, *short.robust_stages, short.robust)
    assert [one.updates for one in after] == [0 if one.updates == 0 else 4 for one in before]
    assert [short.warms_up(one) for one in after] == [config.warms_up(one) for one in before]
    assert (short.warmup.updates, short.evaluation.attacked, short.evaluation.steps) == (12, 16, 4)


@pytest.mark.parametrize("recipe", recipe_names())
def test_an_untrained_run_makes_one_model(recipe: str) -> None:
    assert load_recipe(recipe).kinds == ("benign", "robust")
    assert untrained(load_recipe(recipe)).kinds == ("benign",)


def test_options_change_a_short_run(configs: list[Config]) -> None:
    assert main(["folder", "--short", "--robust.updates", "7", "--warmup.epochs", "1"]) == 0
    assert main(["folder", "--untrained", "--name", "mine"]) == 0
    short, mine = configs
    assert (short.robust_stages[0].updates, short.robust.updates, short.warmup.updates) == (4, 7, None)
    assert (mine.name, mine.kinds, mine.evaluation) == ("mine", ("benign",), load_recipe("folder").evaluation)


def test_a_given_defense_and_budget_concern_the_whole_training(configs: list[Config]) -> None:
    for options in (
        ["--robust.defense", "ACT[R]"],
        ["--robust.defense", "ACT[R]", "--robust-stages.0.updates", "3"],
        ["--robust.epsilon", "4/255"],
        ["--robust.epsilon", "4/255", "--robust-stages.0.epsilon", "6/255"],
    ):
        assert main(["folder", *options]) == 0
    alone, staged, smaller, mixed = configs
    assert (alone.robust.defense, alone.robust_stages) == ("ACT[R]", ())
    assert (staged.robust.defense, staged.robust_stages[0].updates) == ("ACT[R]", 3)
    assert (smaller.robust.epsilon, smaller.robust_stages[0].epsilon) == (4 / 255, 4 / 255)
    assert (mixed.robust.epsilon, mixed.robust_stages[0].epsilon) == (4 / 255, 6 / 255)


def test_a_given_length_of_the_warm_up_clears_that_of_a_model_unless_it_has_none() -> None:
    config = load_recipe("demo")
    given = with_lengths(config, {"--warmup.updates"})
    assert (config.benign.warmup_epochs, given.benign.warmup_epochs) == (8, None)
    assert with_lengths(config, {"--warmup.epochs", "--benign.warmup-epochs"}).benign.warmup_epochs == 8
    assert with_lengths(load_recipe("folder"), {"--warmup.epochs"}).benign.warmup_epochs == 0


def test_epochs_on_the_command_line_reach_the_run(configs: list[Config]) -> None:
    assert main(["folder", "--warmup.epochs=2", "--robust.epochs", "1"]) == 0
    (config,) = configs
    assert (config.warmup.epochs, config.warmup.updates) == (2, None)
    assert (config.robust.epochs, config.robust.updates) == (1, None)


def test_a_length_that_is_set_twice_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", "--robust.epochs", "1", "--robust.updates", "5"]) == 2
    assert "--robust.epochs and --robust.updates" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "mine.yaml").write_text("robust_stages: [{epochs: 2, updates: 5}]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml sets epochs: 2 and updates: 5"):
        load_recipe(tmp_path / "mine.yaml")


def test_options_of_a_warm_up_that_no_model_has_are_an_error() -> None:
    for option in ("--warmup.epochs", "--robust.warmup-epsilon"):
        with pytest.raises(ConfigError, match=f"{option} has no effect"):
            refuse_unused(load_recipe("cub"), {option})
        refuse_unused(load_recipe("folder"), {option})


def _status(*arguments: str) -> object:
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code
