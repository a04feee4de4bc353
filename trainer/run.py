"""Train a benign and a robust embedding model, measure both, and export both to ONNX.

The first argument is a recipe: one that comes with hardrank (default: demo), or a YAML file. Each option overrides one
field of it. The bundles are written to models/zoo/NAME-benign and models/zoo/NAME-robust.
"""

import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hardrank.models.bundle import load_card
from hardrank.models.card import Card
from hardrank.models.command_errors import report_errors
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress
from hardrank.trainer.attacks.gtm import Unmatched
from hardrank.trainer.attacks.registry import known_figures
from hardrank.trainer.config import Config
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, CheckKind
from hardrank.trainer.main_job import MainJobResult, plan_main_job, run_main_job
from hardrank.trainer.recipe import load_recipe, recipe_names
from hardrank.trainer.recipe_variants import (
    at_size,
    refuse_unused,
    shortened,
    untrained,
    with_backbone,
    with_budget,
    with_defense,
    with_lengths,
)
from hardrank.trainer.runtime.launch import MainLaunch
from hardrank.trainer.runtime.run_folder import LOGS

_DEFAULT_RECIPE: Final = "demo"


@dataclass(frozen=True)
class Command:
    """All options of the command: the fields of the recipe, and how it runs."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    size: int | None = None
    """Side of the network's input, pixels: scales every size of the recipe, and becomes part of the name; smaller
    images train faster."""
    short: bool = False
    """Take a few updates of each stage and few attacks, which shows within minutes whether everything works; the
    figures of the models, which are called NAME-short, mean nothing."""
    untrained: bool = False
    """Train nothing: measure and export the network as it starts, as NAME-benign. Then no robust model is made."""
    launch: Annotated[MainLaunch, tyro.conf.arg(name="")] = field(default_factory=MainLaunch)


@report_errors(interrupted="Interrupted. To continue from the last checkpoint, if any, add --resume to the command.")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; by default `sys.argv[1:]`.

    Returns:
        The exit status: 0 for success, 2 for a mistake in the options or the images, 130 for an interruption.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    recipe, options = _split(arguments)
    config = _variant(load_recipe(recipe), options)
    command = tyro.cli(
        Command,
        prog=typed("train"),
        description=_description(recipe),
        args=options,
        default=Command(config),
        config=(tyro.conf.EnumChoicesFromValues,),
    )
    config = with_budget(command.config, _given(options))
    refuse_unused(config, _given(options))
    console = Console()
    with ConsoleProgress(console) as report:
        if command.launch.plan:
            plan_main_job(config, command.launch, report=report)
            return 0
        result = run_main_job(config, command.launch, recipe=recipe, report=report)
    _print_results(console, result)
    return 0


def _split(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the recipe and the options."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return _DEFAULT_RECIPE, arguments


def _variant(config: Config, options: Sequence[str]) -> Config:
    """Return the recipe as changed by those of `options` that change the defaults of others.

    What cannot be read here is an error of the command itself.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--architecture.backbone", dest="backbone", default=config.architecture.backbone)
    parser.add_argument("--size", default="")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--untrained", action="store_true")
    found = parser.parse_known_args(options)[0]
    config = at_size(config, int(found.size)) if found.size.isdecimal() else config
    config = shortened(config) if found.short else config
    config = untrained(config) if found.untrained else config
    config = with_defense(config, _given(options))
    return with_lengths(with_backbone(config, found.backbone), _given(options))


def _given(options: Sequence[str]) -> set[str]:
    """Return the names of the given options, such as `--warmup.batch-size`."""
    return {option.partition("=")[0].replace("_", "-") for option in options if option.startswith("--")}


def _description(recipe: str) -> str:
    program = typed("train")
    examples = {
        program: "the demo data set; prints how long it will take before it starts",
        f"{program} folder --data.root ~/photos": "your own images, in a folder for each class",
        f"{program} unlabelled --data.root ~/photos": "images without classes",
        f"{program} folder --size 96 --data.root ~/photos": "smaller images, in little more than half of the time",
        f"{program} folder --data.root ~/photos --short": "a few minutes, to see whether everything works",
        f"{program} folder --data.root ~/photos --untrained": "measure and export the pretrained network as it is",
        f"{program} folder --data.root ~/photos --plan": "how long that would take; trains nothing",
        f"{program} cub --help": "the options, with the defaults of a recipe",
        f'{program} --robust.defense "ACT[R]"': "another defense",
        f"{program} --resume": "continue after an interruption",
    }
    width = max(map(len, examples))
    lines = "\n".join(f"  {command:<{width}}  {purpose}" for command, purpose in examples.items())
    return (
        f"{__doc__}\nRecipes: {', '.join(recipe_names())}. The defaults below are those of `{recipe}`.\n"
        f"Examples:\n{lines}"
    )


def _print_results(console: Console, result: MainJobResult) -> None:
    """Print the table, benign beside robust, and the commands for the next steps."""
    if not result.bundles:
        return
    cards = {kind: load_card(folder) for kind, folder in result.bundles.items()}
    console.print(_table(cards))
    for kind, card in cards.items():
        if checks := (card.robustness or {}).get("checks"):
            caution = _caution(kind, checks)
            console.print(f"[yellow]caution[/]: {escape(caution)}", highlight=False, soft_wrap=True)
    bundles = [_shown(folder) for folder in result.bundles.values()]
    lines = [
        "Bundles:",
        *(f"  {bundle}" for bundle in bundles),
        f"Log:  tensorboard --logdir {_shown(result.folder / LOGS)}",
        f"Load: import hardrank, pathlib; hardrank.load_embedder(pathlib.Path({bundles[-1]!r}))",
        "Next: index the test images, serve, audit",
        *(f"  {command}" for command in _next_commands(result, bundles)),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _next_commands(result: MainJobResult, bundles: Sequence[str]) -> list[str]:
    """Return the commands that use the bundles; the index of each has its name."""
    run, name = _shown(result.folder), result.folder.name
    indexes = [f"indexes/{Path(bundle).name}" for bundle in bundles]
    pairs = list(zip(bundles, indexes, strict=True))
    commands = [
        *([typed("index"), "--model", bundle, "--from-run", run, "--out", index] for bundle, index in pairs),
        [typed("serve"), *(word for bundle, index in pairs for word in ("--model", f"{bundle}={index}"))],
        [typed("audit"), "--models", *bundles, "--run", run, "--out", f"audits/{name}"],
        [typed("app"), "--zoo", str(Path(bundles[-1]).parent), "--gallery", run],
    ]
    return [f"{program} {shlex.join(words)}" for program, *words in commands]


def _table(cards: dict[str, Card]) -> Table:
    """Benign beside robust: retrieval of unseen classes, then results under attack."""
    first = next(iter(cards.values()))
    attacked = (first.robustness or {}).get("n", 0)
    table = Table(title=_tested(first), caption=r"\[a, b]: 95 % interval over the attacked images")
    table.add_column("")
    for kind, card in cards.items():
        table.add_column(f"{kind}\n{escape(card.defense)}", justify="right")
    for label, key in _METRICS.items():
        table.add_row(label, *(f"{card.metrics[key]:.3f}" for card in cards.values()))
    table.add_section()
    figures = known_figures()
    for key in ERS_KEYS:
        table.add_row(
            f"{_label(key, first)} {'↑' if figures[key].higher_is_robust else '↓'}",
            *(_figure(card, key) for card in cards.values()),
        )
    table.add_section()
    table.add_row(f"[bold]ERS ↑[/]  {attacked} images", *(_ers(card) for card in cards.values()))
    table.add_row("worst-case Recall@1, % ↑", *(_worst_case(card) for card in cards.values()))
    strong = [(card.robustness or {}).get("strong") for card in cards.values()]
    if any(strong):
        n = next(found["n"] for found in strong if found)
        table.add_row(f"strong ERS ↑  {n} images", *map(_strong, strong))
        table.add_row("  ERS of the same images", *map(_same_images, strong))
    return table


def _tested(card: Card) -> str:
    images, classes = (card.data["test"][name] for name in ("images", "classes"))
    if "classes_are" in card.data:
        return f"{images} unseen images; each has to find its augmented copy, and the copy the image"
    return f"{images} images of {classes} unseen classes"


def _label(key: str, card: Card) -> str:
    """Return the name of a result; GTM says which item it moves towards."""
    unmatched = (card.robustness or {}).get("attacks", {}).get("GTM", {}).get("unmatched", Unmatched.NEAREST)
    return f"GTM ({unmatched} item)" if key == "GTM" else key


def _strong(found: Mapping[str, Any] | None) -> str:
    if not found or found["ers"] is None:
        return "–"
    interval = escape(f"[{found['ers_low']:.1f}, {found['ers_high']:.1f}]")
    return f"[bold]{found['ers']:.1f}[/]  {interval}"


def _same_images(found: Mapping[str, Any] | None) -> str:
    return "–" if not found or found["ers"] is None else f"{found['protocol_ers']:.1f}"


_METRICS = {
    "Recall@1 ↑": "recall_at_1",
    "Recall@2 ↑": "recall_at_2",
    "mAP ↑": "mean_ap",
    "mAP@R ↑": "map_at_r",
    "NMI ↑": "nmi",
    "mean cosine of random pairs": "mean_cosine",
}


def _figure(card: Card, key: str) -> str:
    robustness = card.robustness or {}
    return f"{robustness['figures'][key]['value']:.3g}" if robustness else "–"


def _ers(card: Card) -> str:
    robustness = card.robustness or {}
    if not robustness:
        return "–"
    return f"[bold]{robustness['ers']:.1f}[/]  [{robustness['ers_low']:.1f}, {robustness['ers_high']:.1f}]"


def _worst_case(card: Card) -> str:
    found = (card.robustness or {}).get("worst_case_recall")
    return "–" if found is None else f"{found:.1f}"


def _caution(kind: str, checks: Sequence[Mapping[str, str]]) -> str:
    """Say why a model's ERS is doubtful, each kind of check once, and what to do about it."""
    places: dict[str, list[str]] = {}
    for check in checks:
        places.setdefault(check["kind"], []).append(check["where"])
    said = [f"{_count(name, where)}: {name}{_remedy(name, kind)}" for name, where in places.items()]
    return f"read the ERS of the {kind} model with care. {'; '.join(said)}. Details: robustness.checks of its card.json"


def _count(check: str, places: Sequence[str]) -> str:
    if len(places) == 1:
        return places[0]
    return f"{len(places)} {'results' if check in _OF_RESULTS else 'attacks'}"


def _remedy(check: str, kind: str) -> str:
    return f", so {_REMEDIES[check].format(kind=kind)}" if check in _REMEDIES else ""


_LONGER: Final = "attack longer (--evaluation.steps in a new run, --steps in an audit of the bundle)"
_REMEDIES: Final[Mapping[str, str]] = {
    CheckKind.STILL_FALLING: _LONGER,
    **dict.fromkeys(
        (
            CheckKind.ZERO_GRADIENT,
            CheckKind.BARELY_BEATS_NOISE,
            CheckKind.HARDLY_FALLS,
            CheckKind.SEARCH_BEATS_ATTACK,
            CheckKind.SURVIVES_LARGE_BUDGET,
            CheckKind.GRADIENT_MISMATCH,
        ),
        "attack without gradients (an audit with --method square)",
    ),
    CheckKind.NOISE_BEATS_ATTACK: "attack in smaller steps (--evaluation.alpha), and more of them",
    CheckKind.SEED_VARIANCE: "compare runs with several values of --seed",
    CheckKind.COLLAPSE: "judge it by Recall@1 beside ERS; a lower --{kind}.learning-rate may keep images apart",
}
"""Remedies by failed check. Networks that are random or depend on the batch have none: this command trains none."""
_OF_RESULTS: Final = frozenset({CheckKind.NOISE_BEATS_ATTACK, CheckKind.SEED_VARIANCE})
"""Checks that apply to one of the ten results; the others apply to an attack, or the model."""


def _shown(path: Path) -> str:
    """Return the path relative to the working directory if it is below it, else the absolute path."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)


if __name__ == "__main__":
    sys.exit(main())
