"""What a report says of the sanity checks and of stronger attacks."""

from hardrank.audit_app.report.wording import cautions
from hardrank.audit_app.results.schema import CheckEntry, StrongEntry
from hardrank.audit_app.results.verdict import Verdict, judge_score, strong_text, verdict_text
from tests.audit_app.reports import make_made_up, make_model, make_strong


def test_verdict_counts_the_failed_checks_and_names_each_kind_once() -> None:
    assert verdict_text(["collapse"], upper_bound=False, strong=None) == "1 sanity check failed: collapse"
    text = verdict_text(["a", "b", "a"], upper_bound=False, strong=make_strong())
    assert text == "3 sanity checks failed: a, b"
    assert judge_score(["a"], upper_bound=False, strong=make_strong()) is Verdict.BAD


def test_only_a_model_that_met_stronger_attacks_passes() -> None:
    assert verdict_text([], upper_bound=False, strong=make_strong(ers=38.2)).startswith("passed all sanity checks")
    assert "38.2" in verdict_text([], upper_bound=False, strong=make_strong(ers=38.2))
    assert judge_score([], upper_bound=False, strong=make_strong()) is Verdict.GOOD
    assert "passed" not in verdict_text([], upper_bound=False, strong=None)
    assert judge_score([], upper_bound=False, strong=None) is Verdict.OPEN


def test_a_black_box_audit_never_passes() -> None:
    report = make_made_up(make_model(upper_bound=True, method={"name": "square", "queries": 10}, queries=10))
    [model] = report.models
    assert "passed" not in verdict_text([], upper_bound=model.upper_bound, strong=model.strong)
    assert judge_score([], upper_bound=True, strong=make_strong()) is Verdict.OPEN
    assert not any("passed" in sentence for sentence in cautions(report.settings, report.models))


def test_the_strong_score_is_stated_beside_the_protocol_on_the_same_images() -> None:
    text = strong_text(make_strong(ers=38.2, protocol_ers=49.8, n=32))
    assert text.index("38.2") < text.index("49.8") < text.index("32 images")
    assert strong_text(make_strong(ers=None, protocol_ers=None)) == ""


def test_cautions_name_a_model_whose_checks_failed() -> None:
    check = CheckEntry(kind="survives a large budget", where="model", message="…")
    report = make_made_up(make_model(checks=[check]))
    assert any(
        "1 sanity check failed: survives a large budget" in line for line in cautions(report.settings, report.models)
    )


def test_a_caution_says_that_stronger_attacks_were_not_tried() -> None:
    def warned(**changes: StrongEntry) -> bool:
        report = make_made_up(make_model().model_copy(update=changes))
        return any("stronger attacks were not tried" in line for line in cautions(report.settings, report.models))

    assert warned()
    assert not warned(strong=make_strong())
