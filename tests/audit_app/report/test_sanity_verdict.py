"""What a report says of the sanity checks and of stronger attacks."""

from typing import Any

from hardrank.audit_app.report.wording import cautions
from hardrank.audit_app.results.schema import CheckEntry
from hardrank.audit_app.results.verdict import Verdict, judge_score, strong_text, verdict_text
from tests.audit_app.reports import make_made_up, make_model, make_strong


def checks(*kinds: str) -> list[CheckEntry]:
    return [CheckEntry(kind=kind, where="model", message="…") for kind in kinds]


def cautions_of(**changes: Any) -> str:
    report = make_made_up(make_model(**changes))
    return "\n".join(cautions(report.settings, report.models))


def test_verdict_counts_the_failed_checks_and_names_each_kind_once() -> None:
    assert verdict_text(make_model(checks=checks("collapse"))) == "1 sanity check failed: collapse"
    model = make_model(checks=checks("a", "b", "a"), strong=make_strong())
    assert verdict_text(model) == "3 sanity checks failed: a, b"
    assert judge_score(model) is Verdict.BAD
    assert "1 sanity check failed: a" in cautions_of(checks=checks("a"))


def test_only_a_model_that_met_stronger_attacks_passes() -> None:
    met, spared = make_model(strong=make_strong(ers=38.2)), make_model()
    assert verdict_text(met).startswith("passed all sanity checks")
    assert "38.2" in verdict_text(met)
    assert judge_score(met) is Verdict.GOOD
    assert "passed" not in verdict_text(spared)
    assert judge_score(spared) is Verdict.OPEN
    untried = "stronger attacks were not tried"
    assert untried in cautions_of()
    assert untried not in cautions_of(strong=make_strong())


def test_a_black_box_audit_never_passes() -> None:
    asked: dict[str, Any] = {"upper_bound": True, "method": {"name": "square", "queries": 10}, "queries": 10}
    assert "passed" not in verdict_text(make_model(**asked))
    assert judge_score(make_model(**asked, strong=make_strong())) is Verdict.OPEN
    assert "passed" not in cautions_of(**asked)


def test_the_strong_score_is_stated_beside_the_protocol_on_the_same_images() -> None:
    text = strong_text(make_strong(ers=38.2, protocol_ers=49.8, n=32))
    assert text.index("38.2") < text.index("49.8") < text.index("32 images")
    assert strong_text(make_strong(ers=None, protocol_ers=None)) == ""
