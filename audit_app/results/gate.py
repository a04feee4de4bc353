"""Limits that a model must hold, for continuous integration: what it scores, and how much less than before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.results.schema import AuditReport, ModelEntry


class GateError(AuditError):
    """A limit that cannot be judged: an unknown measure, one that was not measured, or another audit's baseline."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is asked of every model."""

    under: Mapping[str, float]
    """Measure → the least value that passes."""
    drop: Mapping[str, float]
    """Measure → the largest loss against the baseline that passes."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A limit that was judged."""

    model: str
    passed: bool
    line: str
    """What was found, for a person."""


def _benign(name: str) -> Callable[[ModelEntry], float | None]:
    return lambda model: None if model.benign is None else float(getattr(model.benign, name))


MEASURES: Final[Mapping[str, tuple[Callable[[ModelEntry], float | None], str]]] = {
    "ERS": (lambda model: model.ers, "Empirical Robustness Score, 0 to 100"),
    "ARS": (lambda model: model.ars, "100 − the mean success of the attacks"),
    "score": (lambda model: model.score, "mean score of the figures measured, 0 to 100"),
    "worst": (lambda model: model.worst_score, "mean over images of the least of their scores, 0 to 100"),
    "worst-recall": (lambda model: model.worst_recall, "Recall@1 in % when each image meets its worst attack"),
    "R@1": (_benign("recall_at_1"), "Recall@1 of untouched images, 0 to 1"),
    "R@2": (_benign("recall_at_2"), "Recall@2 of untouched images, 0 to 1"),
    "mAP": (_benign("mean_ap"), "mean average precision of untouched images, 0 to 1"),
    "mAP@R": (_benign("map_at_r"), "mAP@R of untouched images, 0 to 1"),
    "NMI": (_benign("nmi"), "normalised mutual information, 0 to 1"),
}
"""What can be limited, besides each figure by its name (its score, 0 to 100). Higher is better for all."""


def parse_limits(texts: Sequence[str], *, plain: str | None = None) -> dict[str, float]:
    """Read `MEASURE=NUMBER`; a bare number limits `plain`. Raises `GateError` for anything else."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if not equals and plain is not None:
            name = plain
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not name or not isfinite(value):
            example = "ERS=30" if plain is None else f"2 or {plain}=2"
            raise GateError(f"{text!r} is no limit; write MEASURE=NUMBER, as {example}")
        if name in found:
            raise GateError(f"{name} is limited twice; give one number")
        found[name] = value
    return found


def judge(report: AuditReport, limits: Limits, baseline: AuditReport | None = None) -> list[Verdict]:
    """Judge every model by every limit.

    A model is compared with the baseline's of the same name, or with its only one where both have just one. Raises
    `GateError` for measures that are unknown or missing, and for a baseline of other settings.
    """
    verdicts = [_under(model, name, least) for model in report.models for name, least in limits.under.items()]
    if not limits.drop:
        return verdicts
    if baseline is None:
        raise GateError("--fail-drop compares with an earlier report; name it with --baseline")
    check_comparable(report, baseline)
    for model in report.models:
        former = _counterpart(model, report, baseline)
        verdicts += [_drop(model, former, name, most) for name, most in limits.drop.items()]
    return verdicts


def check_limits(limits: Limits, figures: Sequence[str]) -> None:
    """Raise `GateError` for a measure that an audit with these `figures` does not have."""
    for name in {*limits.under, *limits.drop}:
        if name not in MEASURES and name not in figures:
            raise GateError(f"nothing is called {name!r}; there are {', '.join([*MEASURES, *figures])}")


def check_comparable(report: AuditReport, baseline: AuditReport) -> None:
    """Raise `GateError` unless both audits did the same to the same gallery; names what differs."""
    if differing := report.settings.differences(baseline.settings):
        shown = "; ".join(_differing(name, report, baseline) for name in differing)
        raise GateError(
            f"the baseline was measured differently, so a comparison says nothing: {shown}. Audit with the settings of "
            "the baseline, or make a new baseline"
        )


def _differing(name: str, report: AuditReport, baseline: AuditReport) -> str:
    now, then = (getattr(one.settings, name) for one in (report, baseline))
    if name == "gallery":
        both = (f"{one.name}, {one.items} images, SHA-256 {one.sha256[:8]}…" for one in (then, now))
        return f"gallery ({' → '.join(both)})"
    if name == "attacks":
        return f"attacks ({', '.join(then)} → {', '.join(now)})"
    return f"{name} ({then} → {now})"


def _counterpart(model: ModelEntry, report: AuditReport, baseline: AuditReport) -> ModelEntry:
    found = baseline.model(model.name)
    if found is None and len(report.models) == len(baseline.models) == 1:
        found = baseline.models[0]
    if found is None:
        names = ", ".join(one.name for one in baseline.models)
        raise GateError(f"the baseline has no model {model.name!r}; it has {names}: give one that name (LABEL=MODEL)")
    if found.method["name"] != model.method["name"]:
        raise GateError(
            f"{model.name} was attacked by {model.method['name']}, the baseline's by {found.method['name']}: these "
            "scores cannot be compared"
        )
    return found


def value_of(model: ModelEntry, name: str) -> float:
    """Give a measure of a model; raises `GateError` where it is unknown or was not measured."""
    check_limits(Limits(under={name: 0.0}, drop={}), list(model.figures))
    value = MEASURES[name][0](model) if name in MEASURES else model.figures[name].score
    if value is None:
        raise GateError(
            f"{name} of {model.name} was not measured; audit all ten attacks on classes of two images or more"
        )
    return value


def _under(model: ModelEntry, name: str, least: float) -> Verdict:
    value = value_of(model, name)
    passed = value >= least
    line = f"{model.name}: {name} is {_shown(model, name, value)}, {'at least' if passed else 'under'} {least:g}"
    return Verdict(model=model.name, passed=passed, line=line)


def _drop(model: ModelEntry, former: ModelEntry, name: str, most: float) -> Verdict:
    now, then = value_of(model, name), value_of(former, name)
    lost = then - now
    passed = lost <= most
    how = f"fell by {lost:.4g}" if lost > 0 else f"rose by {-lost:.4g}"
    line = (
        f"{model.name}: {name} {how} ({then:.4g} → {_shown(model, name, now)}), "
        f"{'no more' if passed else 'more'} than {most:g}"
    )
    return Verdict(model=model.name, passed=passed, line=line)


def _shown(model: ModelEntry, name: str, value: float) -> str:
    if name == "ERS" and model.ers_low is not None and model.ers_high is not None:
        return f"{value:.4g} [{model.ers_low:.4g}, {model.ers_high:.4g}]"
    return f"{value:.4g}"
