"""The model card states the verdict of the sanity checks, and has metadata that the Hub reads."""

import math
from pathlib import Path
from typing import Any

import pytest

from hardrank.models.card import InitialWeightsEntry
from hardrank.models.model_card import model_card
from hardrank.models.weights import hub_repository
from tests.models.test_bundle import make_card

STRONG = {"ers": 38.2, "ers_low": 35.0, "ers_high": 41.0, "protocol_ers": 49.8, "n": 32}
COST = {"gradients_per_image": 700.4, "seconds": 61.2}


def rendered(checks: list[dict[str, str]], **more: Any) -> str:
    robustness: dict[str, Any] = {
        "options": {"epsilon": 8 / 255, "norm": "linf", "steps": 32},
        "n": 100,
        "ers": 50.0,
        "ers_low": 48.0,
        "ers_high": 52.0,
        "figures": {"TMA": {"before": 0.1, "value": 0.5, "low": 0.4, "high": 0.6}},
        "checks": checks,
        **more,
    }
    measured = {"robustness": robustness, "data": {"name": "demo"}, "metrics": {"recall_at_1": 0.75}}
    return model_card(make_card({}).model_copy(update=measured))


def test_the_card_says_passed_only_if_stronger_attacks_were_tried() -> None:
    assert "passed" not in rendered([])
    assert "stronger attacks were not tried" in rendered([])
    assert "passed all sanity checks" in rendered([], strong={**STRONG, **COST})


def test_the_card_shows_both_scores_and_the_cost_of_the_strong_one() -> None:
    text = rendered([], strong={**STRONG, **COST})
    assert "**ERS 50.0** of 100" in text
    assert "**Strong ERS 38.2** (95 % interval 35.0 – 41.0): on 32 of the images" in text
    assert "The ERS of these images is 49.8. Cost: 700 gradients per image, 61 s." in text
    assert "Strong ERS" not in rendered([], strong={**STRONG, **COST, "ers": None})


def test_the_card_lists_each_failed_check() -> None:
    check = {"kind": "loss hardly falls", "where": "TMA", "message": "from 0.82 to 0.81"}
    assert "1 sanity check failed: loss hardly falls." in rendered([check])
    text = rendered([check, {**check, "where": "ES"}])
    assert "2 sanity checks failed: loss hardly falls." in text
    assert "- loss hardly falls (TMA): from 0.82 to 0.81\n- loss hardly falls (ES)" in text
    assert "passed all" not in text


def hub_data(text: str) -> Any:
    """The metadata of a card, as huggingface_hub reads it."""
    hub = pytest.importorskip("huggingface_hub")
    return hub.ModelCard(text, ignore_metadata_errors=False).data


def test_the_metadata_is_valid_for_the_hub_and_holds_the_figures() -> None:
    data = hub_data(rendered([], strong={**STRONG, **COST}, worst_case_recall=2.5))
    assert data.model_name == make_card({}).name
    assert data.datasets == ["demo"]
    found = {result.metric_type: result for result in data.eval_results}
    assert found["recall_at_1"].metric_value == 0.75
    assert found["recall_at_1"].dataset_split == "test"
    assert (found["ers"].metric_value, found["strong_ers"].metric_value) == (50.0, 38.2)
    assert found["ers"].metric_args == {"norm": "linf", "epsilon": 8 / 255, "steps": 32, "images": 100}
    assert found["strong_ers"].metric_args["images"] == 32
    assert found["worst_case_recall"].metric_value == 2.5
    assert "base_model" not in data.to_dict()
    assert data.to_dict()["pipeline_tag"] == "image-feature-extraction"


def test_metadata_survives_names_that_yaml_would_misread() -> None:
    card = make_card({}).model_copy(update={"name": 'a: "b" #c', "data": {"name": "my photos: [1]"}, "metrics": {}})
    data = hub_data(model_card(card.model_copy(update={"robustness": None})))
    assert data.datasets == ["my-photos-1"]
    assert data.eval_results is None
    measured = hub_data(model_card(card.model_copy(update={"metrics": {"recall_at_1": 0.5, "nmi": math.nan}})))
    assert measured.model_name == 'a: "b" #c'
    assert "nmi" not in {result.metric_type for result in measured.eval_results}


def test_the_base_model_is_the_repository_of_the_start() -> None:
    start = InitialWeightsEntry(
        origin="cache", name="model.safetensors", sha256="0" * 64, repository="timm/efficientnet_lite0.ra_in1k"
    )
    card = make_card({}).model_copy(update={"initial_weights": start})
    assert hub_data(model_card(card)).base_model == "timm/efficientnet_lite0.ra_in1k"
    assert hub_data(model_card(card, base_model="me/mine")).base_model == "me/mine"
    package = start.model_copy(update={"origin": "package", "repository": None})
    assert hub_data(model_card(card.model_copy(update={"initial_weights": package}))).base_model is None


def test_the_repository_of_weights_is_read_from_their_path_in_the_cache() -> None:
    cache = Path("/cache/hub/models--timm--vit_small--x.in1k/snapshots/1/model.safetensors")
    assert hub_repository(cache) == "timm/vit_small--x.in1k"
    assert hub_repository(Path("/photos/models/weights.pt")) is None
