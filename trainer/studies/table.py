"""The table of a study, from its trials: rows with the mean over their seeds, as JSON and Markdown."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardrank.models.files import write_json, write_text
from hardrank.trainer.evaluation.scorecard import ERS_KEYS
from hardrank.trainer.studies.choice import choices_markdown
from hardrank.trainer.studies.claims import claims_markdown, judge
from hardrank.trainer.studies.curves import compare, interval_text
from hardrank.trainer.studies.plan import Expectation, Study
from hardrank.trainer.studies.trial_list import Trial

SCHEMA = "hardrank.study/3"

Content = Mapping[str, Any]

_WORST = "MARGIN"
"""The attack that worst-case Recall@1 needs; trials that lack it have none."""


def summarize(
    study: Study,
    planned: Sequence[Trial],
    done: Mapping[str, Content],
    samplers: Content,
    *,
    choices: Mapping[str, Content] | None = None,
    typed: str = "",
) -> dict[str, Any]:
    """Return the table of a study as JSON values.

    Args:
        study: The study.
        planned: All its trials.
        done: Results of the finished trials by key.
        samplers: Mean hardness by sampler, or empty.
        choices: The settings that rows chose from a grid, by title; see `Choice.to_dict`.
        typed: The study as given on the command line, a name or a file; its name if empty.
    """
    titles = list(dict.fromkeys(trial.title for trial in planned))
    by_title = {title: [trial for trial in planned if trial.title == title] for title in titles}
    rows = [_row(title, [done[trial.key] for trial in by_title[title] if trial.key in done]) for title in titles]
    rows = [row for row in rows if row["trials"]]
    known = {row["title"]: row for row in rows if row["ers"] is not None}
    return {
        "schema": SCHEMA,
        "study": study.name,
        "command": f"hardrank study {shlex.quote(typed or study.name)}",
        "planned": len(planned),
        "missing": [f"{trial.title} · seed {trial.seed}" for trial in planned if trial.key not in done],
        "rows": rows,
        "expected": [_compared(one, known) for one in study.expected if {one.higher, one.lower} <= set(known)],
        "published": study.published,
        "choices": dict(choices or {}),
        "curves": {name: list(titles) for name, titles in study.curves.items()},
        "equal_recall": _equal_recall(study, known),
        "claims": [
            judge(claim, study.curves, {row["title"]: row for row in rows}, reference=study.reference)
            for claim in study.claims
        ],
        "samplers": samplers,
        "hardware": _distinct([trial["hardware"] for trial in done.values()]),
        "versions": _distinct([trial["versions"] for trial in done.values()]),
    }


def _equal_recall(study: Study, rows: Mapping[str, Content]) -> list[dict[str, Any]]:
    """Compare each curve whose rows are measured with the reference row, at the Recall@1 of that row."""
    found = []
    for name, titles in study.curves.items():
        if {study.reference, *titles} <= set(rows):
            difference = compare(rows[study.reference], name, [rows[title] for title in titles])
            found += [difference.to_dict()] if difference else []
    return found


def _row(title: str, results: Sequence[Content]) -> dict[str, Any]:
    measured = [result for result in results if result["failure"] is None]
    return {
        "title": title,
        "defense": results[0]["defense"] if results else None,
        "cost": results[0]["cost"] if results else None,
        "trials": [result["key"] for result in results],
        "seeds": [result["seed"] for result in results],
        "failures": [result["failure"] for result in results if result["failure"] is not None],
        "collapsed": sum(_collapsed(result) for result in results),
        "n": [result["robustness"]["n"] for result in measured],
        "seconds": {
            name: _spread([result["seconds"][name] for result in results])
            for name in (("start", "training") if results else ())
        },
        "metrics": {
            name: _spread([result["metrics"][name] for result in measured])
            for name in (measured[0]["metrics"] if measured else ())
        },
        "mean_cosine": _spread([result["robustness"]["mean_cosine"] for result in measured]),
        "ers": _spread([result["robustness"]["ers"] for result in measured]),
        "worst_case_recall": _spread(
            [result["robustness"]["worst_recall"] for result in measured if _WORST in result["robustness"]["figures"]]
        ),
        "ers_intervals": [[result["robustness"]["ers_low"], result["robustness"]["ers_high"]] for result in measured],
        "by_seed": [
            {
                "seed": result["seed"],
                "recall_at_1": result["metrics"]["recall_at_1"],
                **{name: result["robustness"][name] for name in ("ers", "ers_low", "ers_high", "mean_cosine")},
                "collapsed": _collapsed(result),
            }
            for result in measured
        ],
        "destination": _destinations(results),
        "figures": {
            key: _spread([result["robustness"]["figures"][key]["value"] for result in measured])
            for key in (ERS_KEYS if measured else ())
        },
    }


def _compared(expected: Expectation, rows: Content) -> dict[str, Any]:
    """Compare an expectation with the measurement, in points of ERS or of Recall@1 in %."""
    higher, lower = (_measure(rows[title], expected.measure) for title in (expected.higher, expected.lower))
    return {
        "measure": expected.measure,
        "higher": {"title": expected.higher, "value": higher},
        "lower": {"title": expected.lower, "value": lower},
        "by": expected.by,
        "difference": higher - lower,
        "holds": higher - lower >= expected.by,
        "published": None if expected.published is None else list(expected.published),
    }


def _measure(row: Content, measure: str) -> float:
    return float(row["ers"]["mean"] if measure == "ers" else 100 * row["metrics"][measure]["mean"])


def _collapsed(result: Content) -> bool:
    """Whether the last line of the training log is marked as collapsed."""
    column = result["log"].get("collapsed") or [None]
    return bool(column[-1])


def _destinations(results: Sequence[Content]) -> dict[str, float] | None:
    """Return the lowest and the highest destination of the logs; None for defenses without one."""
    values = [value for result in results for value in result["log"].get("destination", ()) if value is not None]
    return {"low": min(values), "high": max(values)} if values else None


def _spread(values: Sequence[float]) -> dict[str, float | None] | None:
    """Mean, standard deviation (None for one value), minimum and maximum over seeds."""
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": deviation, "low": float(min(values)), "high": float(max(values))}


def _distinct(entries: Sequence[Content]) -> list[Content]:
    """Return the distinct entries."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(entry, sort_keys=True) for entry in entries)]


def write_table(summary: Content, folder: Path, plots: Sequence[str]) -> None:
    """Write `study.json`, and `README.md` with the table and the plots."""
    write_json(folder / "study.json", summary)
    write_text(folder / "README.md", markdown(summary, plots))


def markdown(summary: Content, plots: Sequence[str]) -> str:
    """Return the page: the table, expectations, plots and hardware."""
    rows = summary["rows"]
    counts = sorted({n for row in rows for n in row["n"]})
    attacked = f"Attacked images: {', '.join(map(str, counts))}. " if counts else ""
    lines = [
        f"# Study: {summary['study']}",
        "",
        f"`{summary['command']}`: all rows share a recipe, except for what their title says. "
        f"{attacked}A row with several seeds shows the mean ± the standard deviation; a row with one seed shows the "
        "95 % bootstrap interval of its ERS over attacked images. The mean cosine is over all pairs of test images: "
        "near 1 a model has collapsed, which raises ERS and lowers Recall@1.",
        "",
        *_missing(summary),
        *_markdown_table(rows),
        "",
        *_expectations(summary),
        *claims_markdown(summary["claims"]),
        *_equal_recall_lines(summary["equal_recall"]),
        *choices_markdown(summary["choices"], rows),
        *_samplers(summary["samplers"]),
        *(f"![{Path(plot).stem.replace('_', ' ')}]({plot})\n" for plot in plots),
        *_settings_lines(summary),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _missing(summary: Content) -> list[str]:
    if not summary["missing"]:
        return []
    seeds: dict[str, list[str]] = {}
    for name in summary["missing"]:
        title, _, seed = name.rpartition(" · seed ")
        seeds.setdefault(title, []).append(seed)
    rows = "; ".join(f"{title} (seed{'s' if len(own) > 1 else ''} {', '.join(own)})" for title, own in seeds.items())
    return [f"Not done yet ({len(summary['missing'])} of {summary['planned']} trials): {rows}.", ""]


def _markdown_table(rows: Sequence[Content]) -> list[str]:
    worst = any(row.get("worst_case_recall") for row in rows)
    last = ["ERS", *(["worst-case R@1 %"] if worst else []), "mean cosine", "remark"]
    head = ["defense", "cost η+1", "seeds", "R@1 %", "mAP %", "NMI %", *ERS_KEYS, *last]
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join(['---'] + ['--:'] * (len(head) - 2) + ['---'])}|",
        *(f"| {' | '.join(_cells(row, worst=worst))} |" for row in rows),
    ]


def _cells(row: Content, *, worst: bool) -> list[str]:
    name = row["title"].replace("|", "\\|")
    seeds = ", ".join(map(str, row["seeds"]))
    if row["ers"] is None:
        return [name, str(row["cost"]), seeds, *["–"] * (len(ERS_KEYS) + 5 + worst), _remark(row)]
    metrics = [_percent(row["metrics"][key]) for key in ("recall_at_1", "mean_ap", "nmi")]
    figures = [f"{row['figures'][key]['mean']:.3g}" for key in ERS_KEYS]
    cosine = f"{row['mean_cosine']['mean']:.2f}"
    recall = [_worst_case(row)] if worst else []
    return [name, str(row["cost"]), seeds, *metrics, *figures, _ers(row), *recall, cosine, _remark(row)]


def _expectations(summary: Content) -> list[str]:
    """A line for each expectation, and whether it holds."""
    if not summary["expected"]:
        return []
    return [
        f"| expected | measured | | {summary['published'] or 'published'} |",
        "|---|---|---|---|",
        *(f"| {' | '.join(_expectation(one))} |" for one in summary["expected"]),
        "",
    ]


def _expectation(one: Content) -> tuple[str, str, str, str]:
    name = "ERS" if one["measure"] == "ers" else "R@1"
    margin = f" by {one['by']:g}" if one["by"] else ""
    published = "" if one["published"] is None else "{:g} against {:g}".format(*one["published"])
    return (
        f"{name} of {one['higher']['title']} above {one['lower']['title']}{margin}",
        f"{one['higher']['value']:.1f} against {one['lower']['value']:.1f}",
        "yes" if one["holds"] else "no",
        published,
    )


def _equal_recall_lines(compared: Sequence[Content]) -> list[str]:
    """The ERS of each curve at the Recall@1 of the reference row."""
    if not compared:
        return []
    lines = [
        f"ERS at the Recall@1 of {compared[0]['row']}, interpolated along the curve of each defense:",
        "",
        "| curve | seeds | R@1 % | ERS | mean cosine | difference | from the next lower R@1 | from the next higher |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in compared:
        cells = [
            one["curve"].replace("|", "\\|"),
            ", ".join(map(str, one["seeds"])),
            f"{one['recall']:.1f}",
            f"{one['other_ers']:.1f}",
            f"{one['other_cosine']:.2f}",
            interval_text(one["difference"]),
            interval_text(one["above_most"]),
            interval_text(one["above_least"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _percent(spread: Content) -> str:
    text = f"{100 * spread['mean']:.1f}"
    return text if spread["sd"] is None else f"{text} ± {100 * spread['sd']:.1f}"


def ers_range(row: Content) -> dict[str, float]:
    """Return mean, low and high of a row's ERS: the range over its seeds, or the interval of a single one."""
    low, high = (row["ers"]["low"], row["ers"]["high"]) if len(row["n"]) > 1 else row["ers_intervals"][0]
    return {"mean": row["ers"]["mean"], "low": low, "high": high}


def _ers(row: Content) -> str:
    if row["ers"]["sd"] is not None:
        return f"**{row['ers']['mean']:.1f}** ± {row['ers']['sd']:.1f}"
    return "**{mean:.1f}** [{low:.1f}, {high:.1f}]".format(**ers_range(row))


def _worst_case(row: Content) -> str:
    spread = row.get("worst_case_recall")
    if spread is None:
        return "–"
    return f"{spread['mean']:.1f}" if spread["sd"] is None else f"{spread['mean']:.1f} ± {spread['sd']:.1f}"


def _remark(row: Content) -> str:
    if row["failures"]:
        return f"failed ({len(row['failures'])})"
    return f"collapsed ({row['collapsed']} of {len(row['seeds'])})" if row["collapsed"] else ""


def _samplers(samplers: Content) -> list[str]:
    if not samplers:
        return []
    batches = next(iter(samplers.values()))["batches"]
    cells = [f"{name} {entry['mean']:.3f} (variance {entry['variance']:.1e})" for name, entry in samplers.items()]
    return [f"E[H] of the samplers at the start of training, over {batches} batches: {', '.join(cells)}.", ""]


def _settings_lines(summary: Content) -> list[str]:
    if not summary["hardware"]:
        return []
    processors = "; ".join(
        dict.fromkeys(
            f"{entry['processor']}, {entry['cores']} cores, accelerator {entry['accelerator']}, {entry['precision']}"
            for entry in summary["hardware"]
        )
    )
    torches = ", ".join(sorted({entry.get("torch", "?") for entry in summary["versions"]}))
    return [f"Hardware: {processors}. torch {torches}. The files in `trials/` contain the configurations."]
