"""Limits for continuous integration: read, judged, and refused where they say nothing."""

import pytest

from hardrank.audit_app.results.gate import GateError, GateLimits, check_limits, check_models, judge, parse_limits
from hardrank.audit_app.results.schema import GalleryEntry
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, RECALL_KEYS
from tests.audit_app.reports import make_made_up, make_model


def test_limits_are_parsed() -> None:
    assert parse_limits(["ERS=30", "R@1=0.4", "ES:D=12.5"]) == {"ERS": 30, "R@1": 0.4, "ES:D": 12.5}
    assert parse_limits(["2"], default="ERS") == {"ERS": 2}
    assert parse_limits(["2", "R@1=0.02"], default="ERS") == {"ERS": 2, "R@1": 0.02}
    assert parse_limits([]) == {}
    for wrong in ("30", "ERS", "ERS=", "=3", "ERS=x", "ERS=nan", "ERS=inf"):
        with pytest.raises(GateError, match="MEASURE=NUMBER"):
            parse_limits([wrong])
    with pytest.raises(GateError, match="two limits"):
        parse_limits(["ERS=1", "ERS=2"])


@pytest.mark.parametrize(
    ("under", "passed"),
    [
        ({"ERS": 40.0}, True),
        ({"ERS": 40.1}, False),
        ({"R@1": 0.5}, True),
        ({"R@1": 0.51}, False),
        ({"QA+": 60.0}, True),
        ({"QA+": 60.5}, False),
        ({"worst": 5.0, "worst-recall": 10.0, "ARS": 50.0, "NMI": 0.4, "mAP": 0.3, "mAP@R": 0.2, "score": 40.0}, True),
    ],
)
def test_the_lowest_passing_value(under: dict[str, float], passed: bool) -> None:
    verdicts = judge(make_made_up(make_model(worst_case_recall=10.0)), GateLimits(under=under, drop={}))
    assert len(verdicts) == len(under)
    assert all(verdict.passed for verdict in verdicts) is passed


def test_a_violated_limit_names_model_measure_and_interval() -> None:
    report = make_made_up(make_model("benign", ers=12.34), make_model("robust"))
    one, other = judge(report, GateLimits(under={"ERS": 30}, drop={}))
    assert one.line == "benign: ERS is 12.34 [10.34, 14.34], under 30"
    assert not one.passed
    assert other.line == "robust: ERS is 40 [38, 42], at least 30"
    assert other.passed


def test_drops_against_a_baseline() -> None:
    limits = GateLimits(under={}, drop={"ERS": 2, "R@1": 0.02})
    before = make_made_up(make_model(ers=42.5, recall=0.51))
    ers, recall = judge(make_made_up(make_model(ers=40.0, recall=0.5)), limits, before)
    assert ers.line == "robust: ERS fell by 2.5 (42.5 → 40 [38, 42]), more than 2"
    assert not ers.passed
    assert recall.passed
    [risen, _] = judge(make_made_up(make_model(ers=50)), limits, before)
    assert risen.line.startswith("robust: ERS rose by 7.5")
    assert risen.passed


def test_a_single_model_may_have_another_name() -> None:
    limits = GateLimits(under={}, drop={"ERS": 2})
    [verdict] = judge(make_made_up(make_model("v2", ers=39)), limits, make_made_up(make_model("v1")))
    assert verdict.passed
    two = make_made_up(make_model("v1"), make_model("v0"))
    with pytest.raises(GateError, match=r"no model 'v2'; it has v1, v0"):
        judge(make_made_up(make_model("v2")), limits, two)


def test_a_baseline_of_other_settings_is_refused_and_the_difference_named() -> None:
    limits = GateLimits(under={}, drop={"ERS": 2})
    now = make_made_up()
    with pytest.raises(GateError, match=r"steps \(8 → 32\); seed|seed \(3 → 0\).*steps \(8 → 32\)"):
        judge(now, limits, make_made_up(steps=8, seed=3))
    other = GalleryEntry(name="b", sha256="f" * 64, items=9, classes=2, left_out=[])
    with pytest.raises(GateError, match=r"gallery \(b, 9 images, SHA-256 ffffffff… → a, 1000 images"):
        judge(now, limits, make_made_up(gallery=other))
    renamed = GalleryEntry(name="b", sha256="0" * 64, items=1000, classes=10, left_out=["x"])
    assert judge(now, limits, make_made_up(gallery=renamed))
    with pytest.raises(GateError, match=r"attacks \(ES, QA\+ → ES\)"):
        judge(now, limits, make_made_up(attacks={"ES": {}, "QA+": {}}))
    asked = make_made_up(make_model(method={"name": "square"}))
    with pytest.raises(GateError, match="attacked by white-box, the baseline's by square"):
        judge(now, limits, asked)
    with pytest.raises(GateError, match="--baseline"):
        judge(now, limits)


def test_unknown_and_unmeasured_measures_are_refused() -> None:
    with pytest.raises(GateError, match=r"unknown measure 'ers'; choose from ERS"):
        check_limits(GateLimits(under={"ers": 3}, drop={}), ["QA+"])
    check_limits(GateLimits(under={"QA+": 3}, drop={"score": 1}), ["QA+"])
    with pytest.raises(GateError, match="ERS of robust was not measured"):
        judge(make_made_up(make_model(ers=None)), GateLimits(under={"ERS": 3}, drop={}))
    with pytest.raises(GateError, match="R@1 of robust was not measured"):
        judge(make_made_up(make_model(benign=None)), GateLimits(under={"R@1": 0.3}, drop={}))


@pytest.mark.parametrize("limits", [GateLimits(under={"ERS": 3}, drop={}), GateLimits(under={}, drop={"ERS": 3})])
def test_ers_is_refused_unless_all_ten_results_are_measured(limits: GateLimits) -> None:
    check_limits(limits, ERS_KEYS)
    with pytest.raises(GateError, match=r"ERS needs all ten results, and CA\+.* would not be measured"):
        check_limits(limits, ["ES:D", "ES:R"])


def test_the_worst_case_of_recall_needs_all_attacks_on_it() -> None:
    limits = GateLimits(under={"worst-recall": 10}, drop={})
    check_limits(limits, RECALL_KEYS)
    with pytest.raises(GateError, match="worst-recall needs LTM, GTM, MARGIN, which would not be measured"):
        check_limits(limits, ["ES:D", "ES:R"])


def test_upper_bounds_are_refused_unless_accepted() -> None:
    bounded = make_made_up(make_model("stranger", ers=54.1, method={"name": "square"}, upper_bound=True))
    methods = {"bundle": "white-box", "stranger": "square"}
    for measure in ("ERS", "ARS", "score", "worst", "worst-recall", "QA+"):
        limits = GateLimits(under={measure: 1.0}, drop={})
        with pytest.raises(GateError, match=r"stranger is attacked without its gradients \(square\).*upper bound"):
            check_models(limits, methods, retrieval=True)
        with pytest.raises(GateError, match="--accept-upper-bound"):
            judge(bounded, limits)
        check_models(limits, {"bundle": "white-box"}, retrieval=True)
    accepting = GateLimits(under={"ERS": 30.0}, drop={}, accept_upper_bound=True)
    check_models(accepting, methods, retrieval=True)
    [found] = judge(bounded, accepting)
    assert found.passed
    assert found.line == "stranger: ERS is ≤ 54.1 [52.1, 56.1], at least 30"
    retrieval = GateLimits(under={"R@1": 0.3}, drop={})  # no attack changes it
    check_models(retrieval, methods, retrieval=True)
    assert judge(bounded, retrieval)[0].line == "stranger: R@1 is 0.5, at least 0.3"


def test_what_a_baseline_lacks_is_refused_before_the_attack() -> None:
    drop = GateLimits(under={}, drop={"ERS": 2})
    check_models(drop, {"v2": "white-box"}, retrieval=True, baseline=make_made_up(make_model("v1")))
    with pytest.raises(GateError, match="ERS of robust was not measured"):
        check_models(drop, {"robust": "white-box"}, retrieval=True, baseline=make_made_up(make_model(ers=None)))
    with pytest.raises(GateError, match="attacked by square, the baseline's by white-box"):
        check_models(drop, {"robust": "square"}, retrieval=True, baseline=make_made_up())
    with pytest.raises(GateError, match="R@1 cannot be measured"):
        check_models(GateLimits(under={"R@1": 0.3}, drop={}), {"robust": "white-box"}, retrieval=False)
