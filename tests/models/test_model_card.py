"""The model card states the verdict of the sanity checks."""

from typing import Any

from hardrank.models.model_card import model_card
from tests.models.test_bundle import make_card


def rendered(checks: list[dict[str, str]]) -> str:
    robustness: dict[str, Any] = {
        "options": {"epsilon": 8 / 255, "norm": "linf", "steps": 32},
        "n": 100,
        "ers": 50.0,
        "ers_low": 48.0,
        "ers_high": 52.0,
        "figures": {"TMA": {"before": 0.1, "value": 0.5, "low": 0.4, "high": 0.6}},
        "checks": checks,
    }
    return model_card(make_card({}).model_copy(update={"robustness": robustness}))


def test_the_card_states_that_all_checks_passed() -> None:
    assert "passed all sanity checks" in rendered([])


def test_the_card_lists_each_failed_check() -> None:
    check = {"kind": "loss hardly falls", "where": "TMA", "message": "from 0.82 to 0.81"}
    assert "1 sanity check failed: loss hardly falls." in rendered([check])
    text = rendered([check, {**check, "where": "ES"}])
    assert "2 sanity checks failed: loss hardly falls." in text
    assert "- loss hardly falls (TMA): from 0.82 to 0.81\n- loss hardly falls (ES)" in text
    assert "passed all" not in text
