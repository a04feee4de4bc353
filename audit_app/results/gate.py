"""Limits for continuous integration: the least score of a model, and its largest drop against a baseline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.results.schema import WHITE_BOX, AuditReport, AuditSettings, ModelEntry
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, RECALL_KEYS


class GateError(AuditError):
    """A limit that cannot be checked: an unknown or unmeasured quantity, or a baseline with other settings."""


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """The limits of every model."""

    under: Mapping[str, float]
    """Measure → its least passing value."""
    drop: Mapping[str, float]
    """Measure → its largest passing drop against the baseline."""
    accept_upper_bound: bool = False
    """Whether `under` may be judged by upper bounds, the scores of models attacked without their gradients."""


@dataclass(frozen=True, kw_only=True)
class LimitResult:
    """A limit that was checked."""

    model: str
    passed: bool
    line: str
    """The finding in words."""


def _benign(name: str) -> Callable[[ModelEntry], float | None]:
    return lambda model: None if model.benign is None else float(getattr(model.benign, name))


MEASURES: Final[Mapping[str, tuple[Callable[[ModelEntry], float | None], str]]] = {
    "ERS": (lambda model: model.ers, "Empirical Robustness Score, 0 to 100"),
    "strong-ERS": (
        lambda model: None if model.strong is None else model.strong.ers,
        "ERS with the worst of many attacks for each image, on a sample, 0 to 100",
    ),
    "ARS": (lambda model: model.ars, "100 − the mean success of the attacks"),
    "score": (lambda model: model.score, "mean score of the figures measured, 0 to 100"),
    "worst": (lambda model: model.worst_score, "mean over images of their lowest score, 0 to 100"),
    "worst-recall": (lambda model: model.worst_case_recall, "worst-case Recall@1 in %: after ES, LTM, GTM and MARGIN"),
    "R@1": (_benign("recall_at_1"), "Recall@1 of benign images, 0 to 1"),
    "R@2": (_benign("recall_at_2"), "Recall@2 of benign images, 0 to 1"),
    "mAP": (_benign("mean_ap"), "mean average precision of benign images, 0 to 1"),
    "mAP@R": (_benign("map_at_r"), "mAP@R of benign images, 0 to 1"),
    "NMI": (_benign("nmi"), "normalized mutual information, 0 to 1"),
}
"""Measures that can be limited, besides the score (0 to 100) of each figure by name. Higher is better for all."""


_RETRIEVAL: Final = frozenset({"R@1", "R@2", "mAP", "mAP@R", "NMI"})
"""Measures of benign images, which no attack changes."""


def parse_limits(texts: Sequence[str], *, default: str | None = None) -> dict[str, float]:
    """Parse `MEASURE=NUMBER`; a bare number limits `default`. Raises `GateError` for anything else."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if not equals and default is not None:
            name = default
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not name or not isfinite(value):
            example = "ERS=30" if default is None else f"2 or {default}=2"
            raise GateError(f"{text!r} is not a limit; write MEASURE=NUMBER, for example {example}")
        if name in found:
            raise GateError(f"{name} has two limits; specify one")
        found[name] = value
    return found


def judge(report: AuditReport, limits: GateLimits, baseline: AuditReport | None = None) -> list[LimitResult]:
    """Check every model against every limit.

    A model is compared with the model of the same name in the baseline, or with the only one if both reports have
    one. Raises `GateError` for measures that are unknown or missing, for upper bounds unless they are accepted, and for
    a baseline with other settings.
    """
    _check_bounds(limits, {model.name: str(model.method["name"]) for model in report.models if model.upper_bound})
    verdicts = [_under(model, name, least) for model in report.models for name, least in limits.under.items()]
    if not limits.drop:
        return verdicts
    if baseline is None:
        raise GateError("--fail-drop needs an earlier report to compare with; set --baseline")
    check_comparable(report, baseline)
    for model in report.models:
        former = _counterpart(model.name, str(model.method["name"]), baseline, models=len(report.models))
        verdicts += [_drop(model, former, name, most) for name, most in limits.drop.items()]
    return verdicts


def check_limits(limits: GateLimits, figures: Sequence[str]) -> None:
    """Check before any attack that an audit which measures `figures` can judge the limits.

    Raises:
        GateError: A measure is neither in `MEASURES` nor in `figures`, or needs results that are not measured.
    """
    missing = [key for key in ERS_KEYS if key not in figures]
    for name in {*limits.under, *limits.drop}:
        if name not in MEASURES and name not in figures:
            raise GateError(f"unknown measure {name!r}; choose from {', '.join([*MEASURES, *figures])}")
        if name == "worst-recall" and (absent := [key for key in RECALL_KEYS if key not in figures]):
            raise GateError(f"worst-recall needs {', '.join(absent)}, which would not be measured; use --attacks all")
        if name == "ERS" and missing:
            raise GateError(
                f"ERS needs all ten results, and {', '.join(missing)} would not be measured; use --attacks all, or "
                "limit `score`, the mean of the measured results"
            )


def check_models(
    limits: GateLimits, methods: Mapping[str, str], *, retrieval: bool, baseline: AuditReport | None = None
) -> None:
    """Check before any attack that the limits can be judged for every model.

    Args:
        limits: The limits.
        methods: Name of each model → name of the method that will attack it.
        retrieval: Whether a class has two images, so that retrieval can be measured.
        baseline: The report that `limits.drop` compares with.

    Raises:
        GateError: A model's scores will be upper bounds, retrieval cannot be measured, or the baseline has no
            comparable result.
    """
    _check_bounds(limits, {name: method for name, method in methods.items() if method != WHITE_BOX})
    benign = [name for name in (*limits.under, *limits.drop) if name in _RETRIEVAL]
    if benign and not retrieval:
        raise GateError(f"{benign[0]} cannot be measured: no class of the gallery has two images")
    if limits.drop and baseline is not None:
        for name, method in methods.items():
            former = _counterpart(name, method, baseline, models=len(methods))
            for measure in limits.drop:
                value_of(former, measure)


def _check_bounds(limits: GateLimits, searched: Mapping[str, str]) -> None:
    """Raise `GateError` if a limit would judge an upper bound; `searched`: model without gradients → its method."""
    bounded = [name for name in limits.under if name not in _RETRIEVAL]
    if bounded and searched and not limits.accept_upper_bound:
        model, method = next(iter(searched.items()))
        raise GateError(
            f"{model} is attacked without its gradients ({method}), so {bounded[0]} will be an upper bound, which a "
            "limit cannot rely on: audit the bundle or another model with gradients, or judge the bound with "
            "--accept-upper-bound"
        )


def check_comparable(report: AuditReport, baseline: AuditReport) -> None:
    """Raise `GateError`, naming the differences, unless both audits used the same settings and gallery."""
    if differing := report.settings.differences(baseline.settings):
        shown = "; ".join(describe_difference(name, report.settings, baseline.settings) for name in differing)
        raise GateError(
            f"the baseline was measured with other settings: {shown}. Use its settings, or create a new baseline"
        )


def describe_difference(name: str, now: AuditSettings, then: AuditSettings) -> str:
    """Describe a setting that two audits do not share, as `seed (0 → 7)`."""
    if name == "gallery":
        both = (f"{one.name}, {one.items} images, SHA-256 {one.sha256[:8]}…" for one in (then.gallery, now.gallery))
        return f"gallery ({' → '.join(both)})"
    if name == "attacks":
        return f"attacks ({', '.join(then.attacks)} → {', '.join(now.attacks)})"
    return f"{name} ({getattr(then, name)} → {getattr(now, name)})"


def _counterpart(name: str, method: str, baseline: AuditReport, *, models: int) -> ModelEntry:
    """Find the baseline of the model `name`, one of `models` that are audited together."""
    found = baseline.model(name)
    if found is None and models == len(baseline.models) == 1:
        found = baseline.models[0]
    if found is None:
        names = ", ".join(one.name for one in baseline.models)
        raise GateError(f"the baseline has no model {name!r}; it has {names}: rename a model with LABEL=MODEL")
    if found.method["name"] != method:
        raise GateError(
            f"{name} is attacked by {method}, the baseline's by {found.method['name']}: these scores cannot be compared"
        )
    return found


def value_of(model: ModelEntry, name: str) -> float:
    """Return a measure of a model; raises `GateError` if it is unknown or was not measured."""
    if name not in MEASURES and name not in model.figures:
        raise GateError(f"unknown measure {name!r}; choose from {', '.join([*MEASURES, *model.figures])}")
    value = MEASURES[name][0](model) if name in MEASURES else model.figures[name].score
    if value is None:
        raise GateError(f"{name} of {model.name} was not measured; run all attacks, on classes with two images or more")
    return value


def _under(model: ModelEntry, name: str, least: float) -> LimitResult:
    value = value_of(model, name)
    passed = value >= least
    line = f"{model.name}: {name} is {_shown(model, name, value)}, {'at least' if passed else 'under'} {least:g}"
    return LimitResult(model=model.name, passed=passed, line=line)


def _drop(model: ModelEntry, former: ModelEntry, name: str, most: float) -> LimitResult:
    now, then = value_of(model, name), value_of(former, name)
    lost = then - now
    passed = lost <= most
    how = f"fell by {lost:.4g}" if lost > 0 else f"rose by {-lost:.4g}"
    line = (
        f"{model.name}: {name} {how} ({then:.4g} → {_shown(model, name, now)}), "
        f"{'no more' if passed else 'more'} than {most:g}"
    )
    return LimitResult(model=model.name, passed=passed, line=line)


def _shown(model: ModelEntry, name: str, value: float) -> str:
    bound = "≤ " if model.upper_bound and name not in _RETRIEVAL else ""
    if name == "ERS" and model.ers_low is not None and model.ers_high is not None:
        return f"{bound}{value:.4g} [{model.ers_low:.4g}, {model.ers_high:.4g}]"
    return f"{bound}{value:.4g}"
