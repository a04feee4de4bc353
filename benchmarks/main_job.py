"""What did the main job reach, and how long did it take?

    python trainer/run.py && python trainer/run.py caltech101-scratch && \
        python benchmarks/main_job.py demo caltech101-scratch

Reads the cards in models/zoo, writes the figures to benchmarks/results/main_job.json and the table of the README.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.command import RESULTS, ROOT, BenchmarkOptions, parse_options
from hardrank.models.bundle import load_card
from hardrank.models.card import Card
from hardrank.models.files import atomic_path

RESULT = RESULTS / "main_job.json"
README = ROOT / "README.md"


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ("demo", "caltech101-scratch")
    """Runs whose bundles lie in the zoo."""
    zoo: Path = ROOT / "models" / "zoo"
    """Where the bundles are."""


_TABLE = re.compile(r"(<!-- results -->\n).*?(?=\n<!-- end of results -->)", re.DOTALL)


def figures(card: Card) -> dict[str, Any]:
    """What the table shows of a model, and what a reviewer needs to judge it."""
    robustness = card.robustness or {}
    strong = robustness.get("strong")
    return {
        "defense": card.defense,
        "metrics": card.metrics,
        "ers": {key: robustness[key] for key in ("ers", "ers_low", "ers_high")},
        "ten_results": {key: figure["value"] for key, figure in robustness["figures"].items()},
        "worst_case_recall": robustness["worst_case_recall"],
        "strong": {key: strong[key] for key in ("ers", "n", "worst_case_recall")} if strong else None,
        "attacked": robustness["n"],
        "failed_checks": robustness["checks"],
    }


def collect(zoo: Path, names: Sequence[str]) -> dict[str, Any]:
    """Figures of the runs `names`, from the cards of their bundles."""
    runs = {}
    for name in names:
        cards = {kind: load_card(zoo / f"{name}-{kind}") for kind in ("benign", "robust")}
        last = cards["robust"]
        runs[name] = {
            "command": f"python trainer/run.py {last.recipe}"
            + (
                f" --size {last.architecture.image_size}"
                if name == f"{last.recipe}-{last.architecture.image_size}"
                else ""
            ),
            "data": {key: last.data[key] for key in ("sha256", "train", "test")},
            "seeds": last.seeds,
            "models": {kind: figures(card) for kind, card in cards.items()},
            "seconds": last.durations,
            "minutes": round(sum(last.durations.values()) / 60, 1),
            "hardware": last.hardware,
            "versions": last.versions,
        }
    return {"command": f"python benchmarks/main_job.py {' '.join(names)}", "runs": runs}


def table(result: dict[str, Any]) -> str:
    """The README's table: a row for each model."""
    lines = [
        "| command | model | Recall@1 | mAP | ERS (95 % interval) | strong ERS | worst-case Recall@1 | images attacked "
        "| minutes for both |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"].values():
        for kind, model in run["models"].items():
            ers = model["ers"]
            lines.append(
                f"| `{run['command']}` | {kind}, {model['defense']} | {model['metrics']['recall_at_1']:.3f} "
                f"| {model['metrics']['mean_ap']:.3f} | {ers['ers']:.1f} "
                f"({ers['ers_low']:.1f} – {ers['ers_high']:.1f}) | {_strong(model)} | {_worst_case(model)} "
                f"| {model['attacked']} | {run['minutes']} |"
            )
    one = next(iter(result["runs"].values()))["hardware"]
    lines += [
        "",
        f"Unseen classes; seed 0; {one['processor']}, {one['cores']} cores, {one['precision']}. ERS is the Empirical "
        "Robustness Score of the paper, 0 … 100, over the ten results of nine white-box attacks with ε = 8/255 and 32 "
        "steps. The strong ERS is the worst of many attacks for each image, on a sample (n). The worst-case Recall@1 "
        "counts a query only if its benign and all its attacked images find its class. A dash marks what was not "
        "measured. The figures lie in [main_job.json](benchmarks/results/main_job.json).",
    ]
    return "\n".join(lines)


def _strong(model: dict[str, Any]) -> str:
    strong = model.get("strong")
    return f"{strong['ers']:.1f} (n = {strong['n']})" if strong else "–"


def _worst_case(model: dict[str, Any]) -> str:
    recall = model.get("worst_case_recall")  # in %, absent in results from before MARGIN
    return "–" if recall is None else f"{recall / 100:.3f}"


def write_readme(result: dict[str, Any], readme: Path = README) -> None:
    """Put the table between its marks."""
    text = readme.read_text(encoding="utf-8")
    with atomic_path(readme) as unfinished:
        unfinished.write_text(_TABLE.sub(lambda match: match[1] + "\n" + table(result) + "\n", text), encoding="utf-8")


def main() -> None:
    """Collect, write, print."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    result = collect(options.zoo, options.names)
    options.write("main_job", result)
    if not options.tiny and options.result is None:
        write_readme(result)
    print(table(result))


if __name__ == "__main__":
    main()
