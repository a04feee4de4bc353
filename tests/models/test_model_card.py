"""The model card states the verdict of the sanity checks."""

from typing import Any

from hardrank.models.model_card import model_card
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
    return model_card(make_card({}).model_copy(update={"robustness": robustness}))


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
