"""Train a benign and a robust embedding model, measure both, export both to ONNX.

    python trainer/run.py [RECIPE] [--options]

RECIPE is the name of a recipe that comes with hardrank (`demo` when left out) or a YAML file; each option overrides
one field of it. The bundles land in models/zoo/NAME-benign and models/zoo/NAME-robust.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hardrank.models.bundle import load_card
from hardrank.models.card import Card
from hardrank.models.errors import HardrankError
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress
from hardrank.trainer.attacks.registry import known_figures
from hardrank.trainer.config import Config, load_recipe, recipe_names
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, CheckKind
from hardrank.trainer.main_job import Outcome, run_main_job
from hardrank.trainer.runtime.launch import MainLaunch

_DEFAULT_RECIPE = "demo"


@dataclass(frozen=True)
class Command:
    """All options of the command: how it is carried out, then the fields of the recipe."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    launch: Annotated[MainLaunch, tyro.conf.arg(name="")] = field(default_factory=MainLaunch)


def main(arguments: list[str] | None = None) -> int:
    """Carry out the command; gives the exit status: 0 done, 2 a mistake in what was asked, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    errors = Console(stderr=True)
    try:
        recipe, options = _split(arguments)
        command = tyro.cli(
            Command,
            prog=typed("train"),
            description=_description(recipe),
            args=options,
            default=Command(load_recipe(recipe)),
            config=(tyro.conf.EnumChoicesFromValues,),
        )
        console = Console()
        with ConsoleProgress(console) as report:
            outcome = run_main_job(command.config, command.launch, recipe=recipe, report=report)
        _conclude(console, outcome)
    except HardrankError as error:
        errors.print(f"[bold red]error[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; the same command with --resume goes on from the last checkpoint, if there is one")
        return 130
    return 0


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return _DEFAULT_RECIPE, arguments


def _description(recipe: str) -> str:
    return (
        f"{__doc__}\nRecipes: {', '.join(recipe_names())}. The defaults shown below are those of `{recipe}`.\n"
        "Examples:\n"
        "  python trainer/run.py                                  the embedded data set, a few minutes\n"
        "  python trainer/run.py folder --data.root ~/photos      your own folders of classes\n"
        "  python trainer/run.py --resume                         go on after an interruption"
    )


def _conclude(console: Console, outcome: Outcome) -> None:
    """Print the table, benign beside robust, and what to type next."""
    if not outcome.bundles:
        return
    cards = {kind: load_card(folder) for kind, folder in outcome.bundles.items()}
    console.print(_table(cards))
    for kind, card in cards.items():
        if checks := (card.robustness or {}).get("checks"):
            caution = _caution(kind, checks)
            console.print(f"[yellow]caution[/]: {escape(caution)}", highlight=False, soft_wrap=True)
    benign, robust = (_shown(folder) for folder in outcome.bundles.values())
    logs = _shown(outcome.folder / "logs")
    console.print("Bundles:", benign, robust, sep="\n  ", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Log:  tensorboard --logdir {logs}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"Load: import hardrank, pathlib; hardrank.load_embedder(pathlib.Path({robust!r}))",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _table(cards: dict[str, Card]) -> Table:
    """Benign beside robust: retrieval on unseen classes, then what the attacks leave of it."""
    first = next(iter(cards.values()))
    attacked = (first.robustness or {}).get("n", 0)
    table = Table(title=f"{first.data['test']['images']} images of {first.data['test']['classes']} unseen classes")
    table.add_column("")
    for kind, card in cards.items():
        table.add_column(f"{kind}\n{escape(card.defense)}", justify="right")
    for label, key in _METRICS.items():
        table.add_row(label, *(f"{card.metrics[key]:.3f}" for card in cards.values()))
    table.add_section()
    figures = known_figures()
    for key in ERS_KEYS:
        table.add_row(
            f"{key} {'↑' if figures[key].higher_is_robust else '↓'}", *(_figure(card, key) for card in cards.values())
        )
    table.add_section()
    table.add_row(f"[bold]ERS ↑[/]  {attacked} images attacked, 95 %", *(_ers(card) for card in cards.values()))
    return table


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


def _caution(kind: str, checks: Sequence[Mapping[str, str]]) -> str:
    """Say why a model's ERS is to be doubted, each kind of check once, and what to do about it."""
    places: dict[str, list[str]] = {}
    for check in checks:
        places.setdefault(check["kind"], []).append(check["where"])
    said = [f"{_count(name, where)}: {name}{_mend(name, kind)}" for name, where in places.items()]
    return f"read the ERS of the {kind} model with care. {'; '.join(said)}. Details: robustness.checks of its card.json"


def _count(check: str, places: Sequence[str]) -> str:
    if len(places) == 1:
        return places[0]
    return f"{len(places)} {'results' if check in _OF_RESULTS else 'attacks'}"


def _mend(check: str, kind: str) -> str:
    return f", so {_MENDS[check].format(kind=kind)}" if check in _MENDS else ""


_LONGER: Final = "attack longer (--evaluation.steps in a new run, --steps in an audit of the bundle)"
_MENDS: Final[Mapping[str, str]] = {
    CheckKind.STILL_FALLING: _LONGER,
    CheckKind.NOISE_BEATS_ATTACK: "attack in smaller steps (--evaluation.alpha), and more of them",
    CheckKind.ZERO_GRADIENT: "attack without gradients (an audit with --method spsa)",
    CheckKind.SEED_VARIANCE: "compare runs with several values of --seed",
    CheckKind.COLLAPSE: "judge it by Recall@1 beside ERS; a lower --{kind}.learning-rate may keep images apart",
}
"""What to do where a check failed. A random network has no entry: nothing that this command trains is one."""
_OF_RESULTS: Final = frozenset({CheckKind.NOISE_BEATS_ATTACK, CheckKind.SEED_VARIANCE})
"""Checks of one of the ten results; the others are of an attack, or of the model."""


def _shown(path: Path) -> str:
    """The path as a person would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
