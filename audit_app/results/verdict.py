"""What may be said of a score: the verdict of the sanity checks and of stronger attacks, in words."""

from enum import StrEnum

from hardrank.audit_app.results.schema import ModelEntry, StrongEntry
from hardrank.audit_app.results.scores import ModelScores


class Verdict(StrEnum):
    """How far a score can be trusted; the values name the style of a badge."""

    GOOD = "good"
    """No sanity check failed, and the score under stronger attacks is known."""
    OPEN = "open"
    """No sanity check failed, but the model was not attacked with stronger attacks, or without its gradients."""
    BAD = "bad"
    """A sanity check failed."""


def judge_score(model: ModelEntry | ModelScores) -> Verdict:
    """Judge how far the score of a model can be trusted."""
    if model.checks:
        return Verdict.BAD
    return Verdict.OPEN if model.upper_bound or model.strong is None else Verdict.GOOD


def verdict_text(model: ModelEntry | ModelScores) -> str:
    """State the verdict in words; failed checks of the same kind are named once."""
    failed, strong = [check.kind for check in model.checks], model.strong
    if failed:
        count = f"{len(failed)} sanity check{'' if len(failed) == 1 else 's'} failed"
        return f"{count}: {', '.join(dict.fromkeys(failed))}"
    if model.upper_bound:
        return "no sanity check failed, but most need gradients and did not run"
    if strong is None:
        return "no sanity check failed; stronger attacks were not tried"
    lowered = "were tried" if strong.ers is None else f"lower ERS to {strong.ers:.1f} ({strong.n} images)"
    return f"passed all sanity checks; stronger attacks {lowered}"


def strong_text(strong: StrongEntry) -> str:
    """State the strong ERS beside the protocol's, on the same images; empty if not all ten results were measured."""
    if strong.ers is None or strong.protocol_ers is None:
        return ""
    return f"strong ERS {strong.ers:.1f}; under the published protocol {strong.protocol_ers:.1f} ({strong.n} images)"


def cost_text(strong: StrongEntry) -> str:
    """State what the strong search cost."""
    return (
        f"{strong.gradients_per_image:.0f} gradients per image beyond the protocol's, {strong.seconds:.0f} s for "
        f"{strong.n} images"
    )
