"""Recipes at other image sizes, and with other networks."""

import pytest

from hardrank.models.preprocessing import Fit, Interpolation, Preprocessing
from hardrank.trainer.recipe import load_recipe
from hardrank.trainer.recipe_variants import at_size, with_backbone
from hardrank.trainer.run import main


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


def _status(*arguments: str) -> object:
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code
