"""Budget curves: the score of a sample at each budget."""

from dataclasses import replace

import torch

from hardrank.audit_app.audit.estimate import AuditPart
from hardrank.audit_app.audit.model_audit import ModelAudit
from hardrank.audit_app.audit.options import Curve, CurveParameter
from hardrank.audit_app.audit.result import overall_score
from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.results.schema import CurveEntry, CurvePointEntry
from hardrank.trainer.attacks.runner import Method
from hardrank.trainer.evaluation.robustness import RobustnessOptions, sample_queries


def measure_curves(part: ModelAudit, rows: torch.Tensor) -> tuple[CurveEntry, ...]:
    """Measure the requested curves that apply to the method."""
    curves = [curve for curve in part.options.curves if _applies(curve, part.method)]
    total = sum(len(curve.values) for curve in curves)
    found: list[CurveEntry] = []
    for curve in curves:
        found.append(_curve(part, rows, curve, (sum(len(one.points) for one in found), total)))
    return tuple(found)


def _curve(part: ModelAudit, rows: torch.Tensor, curve: Curve, place: tuple[int, int]) -> CurveEntry:
    """Measure a sample at each budget; `place` is the number of its first point among the points of all curves."""
    options = part.options
    sample = rows[sample_queries(len(rows), options.curve_attacked, seed=options.seed)]
    points: list[CurvePointEntry] = []
    for value in curve.values:
        robustness, method = _at(curve.parameter, value, options.robustness, part.method)
        shown = f"{255 * value:g}/255" if curve.parameter is CurveParameter.EPSILON else f"{value:g}"
        where = f"{curve.parameter} {shown}"
        card = part.score(
            sample,
            robustness,
            method,
            name=f"{curve.parameter} {value:.9g}",
            stage=f"{part.embedded.subject.name} {where}",
            part=AuditPart.CURVES,
            place=(place[0] + len(points), place[1]),
        )
        score, low, high = overall_score(card, seed=options.seed, resamples=options.robustness.bootstrap)
        points.append(CurvePointEntry(at=value, score=score, low=low, high=high))
    return CurveEntry(parameter=str(curve.parameter), attacked=len(sample), points=points)


def _at(
    parameter: CurveParameter, value: float, robustness: RobustnessOptions, method: Method | None
) -> tuple[RobustnessOptions, Method | None]:
    """Change one budget. The other seed, the sanity runs and the stronger attacks are only for the scorecard."""
    robustness = replace(robustness, seed_check=0, sanity_images=0, strong_images=0)
    if parameter is CurveParameter.EPSILON:
        return replace(robustness, epsilon=value), method
    if parameter is CurveParameter.STEPS:
        return replace(robustness, steps=int(value)), method
    assert isinstance(method, Search)
    return robustness, replace(method, queries=int(value))


def _applies(curve: Curve, method: Method | None) -> bool:
    """Whether `method` has the curve's parameter."""
    if curve.parameter is CurveParameter.STEPS:
        return not isinstance(method, Search)
    return curve.parameter is CurveParameter.EPSILON or isinstance(method, Search)
