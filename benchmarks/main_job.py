"""What did the main job reach, and how long did it take?

    python trainer/run.py && python trainer/run.py caltech101-scratch && \
        python benchmarks/main_job.py demo caltech101-scratch

Reads the cards in models/zoo, writes the figures to benchmarks/results/main_job.json and the table of the README. Runs
with other seeds are found by their names: `python trainer/run.py demo --name demo-seed-1 --seed 1`. With them the table
has the mean and the standard deviation over seeds.
"""

import re
import statistics
from collections.abc import Callable, Sequence
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
    keep: bool = False
    """Keep the other runs of the result file, whose bundles are elsewhere."""


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
    """Figures of the runs `names` and of their other seeds, from the cards of their bundles."""
    runs = {}
    for name in names:
        cards = _cards(zoo, name)
        last = cards["robust"]
        size = last.architecture.image_size
        runs[name] = {
            "command": f"python trainer/run.py {last.recipe}"
            + (f" --size {size}" if name.endswith(f"-{size}") else ""),
            "data": {key: last.data[key] for key in ("sha256", "train", "test")},
            **_run(cards),
            "other_seeds": [_run(_cards(zoo, one)) for one in _other_seeds(zoo, name)],
            "hardware": last.hardware,
            "versions": last.versions,
        }
    return {"command": f"python benchmarks/main_job.py {' '.join(names)}", "runs": runs}


def _cards(zoo: Path, name: str) -> dict[str, Card]:
    return {kind: load_card(zoo / f"{name}-{kind}") for kind in ("benign", "robust")}


def _other_seeds(zoo: Path, name: str) -> list[str]:
    return sorted(path.name.removesuffix("-robust") for path in zoo.glob(f"{name}-seed-*-robust"))


def _run(cards: dict[str, Card]) -> dict[str, Any]:
    last = cards["robust"]
    return {
        "seeds": last.seeds,
        "models": {kind: figures(card) for kind, card in cards.items()},
        "seconds": last.durations,
        "minutes": round(sum(last.durations.values()) / 60, 1),
    }


def table(result: dict[str, Any]) -> str:
    """The README's table: a row for each model."""
    lines = [
        "| command | model | Recall@1 | mAP | ERS | strong ERS | worst-case Recall@1 | images attacked "
        "| minutes of training both, and in all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"].values():
        seeds = [run, *run.get("other_seeds", ())]
        minutes = f"{min(map(_training_minutes, seeds)):.1f}, {min(one['minutes'] for one in seeds):.1f}"
        for kind, model in run["models"].items():
            models = [one["models"][kind] for one in seeds]
            lines.append(
                f"| `{run['command']}` | {kind}, {model['defense']} "
                f"| {_of(models, lambda one: one['metrics']['recall_at_1'], '.3f')} "
                f"| {_of(models, lambda one: one['metrics']['mean_ap'], '.3f')} | {_ers(models)} "
                f"| {_of(models, _strong, '.1f')}{_strong_images(models)} | {_of(models, _worst_case, '.3f')} "
                f"| {model['attacked']} | {minutes} |"
            )
    one = next(iter(result["runs"].values()))["hardware"]
    lines += [
        "",
        f"On unseen classes; {_seeds(result)}; {one['processor']}, {one['cores']} cores, {one['precision']}. ERS is "
        "the Empirical Robustness Score of the paper, 0 … 100, over the ten results of nine white-box attacks with ε = "
        "8/255 and 32 steps. The strong ERS is the worst of many attacks for each image, on a sample (n). The "
        "worst-case Recall@1 counts a query only if its benign and all its attacked images find its class. "
        "Minutes are those of the fastest run: other work shared the machine with some. "
        f"{_explained(result, lines)}The figures are in [main_job.json](benchmarks/results/main_job.json).",
    ]
    return "\n".join(lines)


def _training_minutes(run: dict[str, Any]) -> float:
    """The time of the warm-ups, the models and their stages, without images, checks, attacks and exports."""
    others = re.compile(r"data|checks|.* (evaluation|export)")
    return sum(float(took) for stage, took in run["seconds"].items() if not others.fullmatch(stage)) / 60


def _explained(result: dict[str, Any], rows: Sequence[str]) -> str:
    """Explain what a table contains beside figures: intervals of runs with one seed, and dashes."""
    interval = not all(run.get("other_seeds") for run in result["runs"].values())
    return ("Intervals are of 95 %, over attacked images. " if interval else "") + (
        "A dash marks what was not measured. " if any("| – |" in row for row in rows) else ""
    )


def _seeds(result: dict[str, Any]) -> str:
    counts = {name: 1 + len(run.get("other_seeds", ())) for name, run in result["runs"].items()}
    if len(set(counts.values())) == 1 and max(counts.values()) > 1:
        return f"mean ± standard deviation of {max(counts.values())} seeds"
    several = [f"{name} with {count} seeds (mean ± standard deviation)" for name, count in counts.items() if count > 1]
    return "; ".join(["seed 0", *several])


def _spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation, or the value if it is alone."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}}"


def _of(models: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float | None], form: str) -> str:
    """The spread of what all models have measured; a dash if one has not."""
    values = [value(model) for model in models]
    known = [one for one in values if one is not None]
    return _spread(known, form) if len(known) == len(values) else "–"


def _ers(models: Sequence[dict[str, Any]]) -> str:
    if len(models) > 1:
        return _spread([model["ers"]["ers"] for model in models], ".1f")
    ers = models[0]["ers"]
    return f"{ers['ers']:.1f} ({ers['ers_low']:.1f} – {ers['ers_high']:.1f})"


def _strong(model: dict[str, Any]) -> float | None:
    return model["strong"]["ers"] if model.get("strong") else None


def _strong_images(models: Sequence[dict[str, Any]]) -> str:
    """The numbers of images of the strong score, which differ among seeds if they were measured so."""
    numbers = sorted({model["strong"]["n"] for model in models if model.get("strong")})
    return f" (n = {', '.join(map(str, numbers))})" if numbers else ""


def _worst_case(model: dict[str, Any]) -> float | None:
    recall = model.get("worst_case_recall")  # in %, absent in results from before MARGIN
    return None if recall is None else recall / 100


def write_readme(result: dict[str, Any], readme: Path = README) -> None:
    """Put the table between its marks."""
    text = readme.read_text(encoding="utf-8")
    with atomic_path(readme) as unfinished:
        unfinished.write_text(_TABLE.sub(lambda match: match[1] + "\n" + table(result) + "\n", text), encoding="utf-8")


def main() -> None:
    """Collect, write, print."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    result = collect(options.zoo, options.names)
    if options.keep:
        result["runs"] = {**options.known("main_job").get("runs", {}), **result["runs"]}
        result["command"] = f"python benchmarks/main_job.py {' '.join(result['runs'])}"
    options.write("main_job", result)
    if not options.tiny and options.result is None:
        write_readme(result)
    print(table(result))


if __name__ == "__main__":
    main()
