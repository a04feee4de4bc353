"""What a report says of the sanity checks."""

from hardrank.audit_app.drawing.formatting import sanity_verdict
from hardrank.audit_app.report.wording import cautions
from hardrank.audit_app.results.schema import CheckEntry
from tests.audit_app.reports import make_made_up, make_model


def test_verdict_counts_the_failed_checks_and_names_each_kind_once() -> None:
    assert sanity_verdict([]) == "passed all sanity checks"
    assert sanity_verdict(["collapse"]) == "1 sanity check failed: collapse"
    assert sanity_verdict(["a", "b", "a"]) == "3 sanity checks failed: a, b"


def test_cautions_name_a_model_whose_checks_failed() -> None:
    check = CheckEntry(kind="survives a large budget", where="model", message="…")
    report = make_made_up(make_model(checks=[check]))
    assert any(
        "1 sanity check failed: survives a large budget" in line for line in cautions(report.settings, report.models)
    )
