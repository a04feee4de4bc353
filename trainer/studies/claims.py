"""Claims about the rows of a study: each yes, no or not decidable, by a rule on intervals, with its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict

from hardrank.trainer.config import ConfigError
from hardrank.trainer.metric.collapse import ALIKE
from hardrank.trainer.studies.curves import Difference, compare, interval_text

Content = Mapping[str, Any]

_LEAST_SEEDS = 2
"""Seeds without which nothing is decided."""
_KEPT_RECALL = 0.5
"""Share of the reference's Recall@1 below which a model of alike embeddings has collapsed."""


class Verdict(StrEnum):
    """Whether a claim holds."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "not decidable"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim: a row has more ERS than others at equal Recall@1, or rows collapse."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    text: str
    """The claim in words."""
    row: str = ""
    """Title of the row that is claimed to be above the others."""
    above: tuple[str, ...] = ()
    """Curves of the study, or titles of rows, that it is claimed to be above."""
    collapse: tuple[str, ...] = ()
    """Titles of rows that are claimed to collapse."""

    def __post_init__(self) -> None:
        if bool(self.collapse) == bool(self.row and self.above) or bool(self.row) != bool(self.above):
            raise ConfigError(f"the claim {self.text!r} needs either row and above, or collapse")


def judge(
    claim: Claim, curves: Mapping[str, Sequence[str]], rows: Mapping[str, Content], *, reference: str = ""
) -> dict[str, Any]:
    """Return the verdict of a claim and its numbers, as JSON values.

    Args:
        claim: The claim.
        curves: Titles of the rows of each curve.
        rows: The measured rows of the table by title.
        reference: Title of the row from whose Recall@1 that of a collapsed row has fallen.
    """
    found = _collapse(claim, rows, reference) if claim.collapse else _above(claim, curves, rows)
    return {"text": claim.text, **found}


def _above(claim: Claim, curves: Mapping[str, Sequence[str]], rows: Mapping[str, Content]) -> dict[str, Any]:
    """Yes if the row is above all of `claim.above`, no if it is below any of them.

    A part of a curve can decide that the row is below: more points never lower the bound that it has to exceed.
    """
    compared: list[Difference] = []
    lacking: list[str] = []
    for name in claim.above:
        titles = curves.get(name, (name,))
        absent = [title for title in (claim.row, *titles) if title not in rows]
        known = [rows[title] for title in titles if title in rows]
        difference = compare(rows[claim.row], name, known) if claim.row in rows and known else None
        if difference is not None and (difference.verdict is False or not absent):
            compared.append(difference)
        else:
            lacking += absent or [f"two seeds of {claim.row} and {name}, none of which failed"]
    verdicts = [one.verdict for one in compared]
    verdict = Verdict.UNDECIDED
    if False in verdicts:
        verdict = Verdict.NO
    elif not lacking and all(verdicts):
        verdict = Verdict.YES
    return {
        "verdict": str(verdict),
        "lacking": list(dict.fromkeys(lacking)),
        "differences": [one.to_dict() for one in compared],
    }


def _collapse(claim: Claim, rows: Mapping[str, Content], reference: str) -> dict[str, Any]:
    """Yes if each row collapsed with every seed, no if one did with none; a row needs two seeds."""
    lacking = [] if reference in rows else [reference]
    lacking += [title for title in claim.collapse if len(rows.get(title, {"seeds": ()})["seeds"]) < _LEAST_SEEDS]
    counts = {
        title: _collapsed(rows[title], rows[reference])
        for title in claim.collapse
        if reference in rows and title not in lacking
    }
    verdict = Verdict.UNDECIDED
    if any(count == 0 for count in counts.values()):
        verdict = Verdict.NO
    elif not lacking and all(count == len(rows[title]["seeds"]) for title, count in counts.items()):
        verdict = Verdict.YES
    return {
        "verdict": str(verdict),
        "lacking": lacking,
        "collapsed": {
            title: {
                "seeds": len(rows[title]["seeds"]),
                "collapsed": count,
                "cosine": _spread_mean(rows[title]["mean_cosine"]),
                "recall_at_1": _spread_mean(rows[title]["metrics"].get("recall_at_1")),
            }
            for title, count in counts.items()
        },
    }


def _collapsed(row: Content, reference: Content) -> int:
    """Count the trainings that failed or collapsed.

    Alike embeddings are not enough: the small distances that remain can still rank the images.
    """
    least = _KEPT_RECALL * float(reference["metrics"]["recall_at_1"]["mean"])
    lost = [one for one in row["by_seed"] if one["mean_cosine"] > ALIKE and one["recall_at_1"] < least]
    return len(row["failures"]) + len(lost)


def _spread_mean(spread: Content | None) -> float | None:
    return None if spread is None else float(spread["mean"])


def claims_markdown(claims: Sequence[Content]) -> list[str]:
    """Return the table of claims, a line for each."""
    if not claims:
        return []
    return [
        "| claim | holds | numbers |",
        "|---|---|---|",
        *(f"| {claim['text']} | **{claim['verdict']}** | {_numbers(claim)} |".replace("\n", " ") for claim in claims),
        "",
        "A row is above the curve of a defense if it has more ERS than the point of the curve with the next lower "
        "Recall@1, below it if it has less than the point with the next higher one. The 95 % interval of the "
        "difference has to exclude 0: the wider one of Student's t over seeds and the bootstrap over attacked images. "
        "Otherwise, with fewer than two seeds, or after a training that failed, nothing is decided. Interpolated "
        f"differences are estimates. A model has collapsed if its mean cosine is above {ALIKE:g} and its Recall@1 "
        f"below {100 * _KEPT_RECALL:g} % of that of the study's reference.",
        "",
    ]


def _numbers(claim: Content) -> str:
    told = [_difference(one) for one in claim.get("differences", ())]
    for title, one in claim.get("collapsed", {}).items():
        recall = "–" if one["recall_at_1"] is None else f"{100 * one['recall_at_1']:.1f} %"
        cosine = "–" if one["cosine"] is None else f"{one['cosine']:.2f}"
        told.append(f"{title}: {one['collapsed']} of {one['seeds']} seeds, mean cosine {cosine}, R@1 {recall}")
    if claim["lacking"]:
        told.append(f"not measured yet: {'; '.join(claim['lacking'])}")
    return "<br>".join(told)


def _difference(one: Content) -> str:
    where = f"{one['ers']:.1f} against {one['other_ers']:.1f} of {one['curve']} at R@1 {one['recall']:.1f} %"
    bounds = {
        "from the next lower R@1": one["above_most"],
        "from the next higher R@1": one["above_least"],
    }
    told = [f"difference {interval_text(one['difference'])}"]
    told += [f"{name} {interval_text(value)}" for name, value in bounds.items() if value and value != one["difference"]]
    return f"{where} ({', '.join(told)})"
