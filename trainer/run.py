"""Train a benign and a robust embedding model, measure both, export both to ONNX.

    python trainer/run.py [RECIPE] [--options]

RECIPE is the name of a recipe that comes with hardrank (`demo` when left out) or a YAML file; each option overrides
one field of it. The bundles land in models/zoo/NAME-benign and models/zoo/NAME-robust.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

# Run as a script, Python puts this folder first on the path, where `config` and `data` would hide other modules.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console
from rich.table import Table

from models.bundle import Card, load_card
from models.errors import HardrankError
from trainer.config import Config, load_recipe, recipe_names
from trainer.console import ConsoleProgress
from trainer.pipeline import Launch, Outcome, run_main_job

_DEFAULT_RECIPE = "demo"


@dataclass(frozen=True)
class Command:
    """All options of the command: how it is carried out, then the fields of the recipe."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    launch: Annotated[Launch, tyro.conf.arg(name="")] = field(default_factory=Launch)


def main(arguments: list[str] | None = None) -> int:
    """Carry out the command; gives the exit status: 0 done, 2 a mistake in what was asked, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    errors = Console(stderr=True)
    try:
        recipe, options = _split(arguments)
        command = tyro.cli(
            Command,
            prog="python trainer/run.py",
            description=_description(recipe),
            args=options,
            default=Command(load_recipe(recipe)),
        )
        console = Console()
        with ConsoleProgress(console) as report:
            outcome = run_main_job(command.config, command.launch, recipe=recipe, report=report)
        _conclude(console, outcome)
    except HardrankError as error:
        errors.print(f"[bold red]error[/]: {error}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; the same command with --resume goes on from the last checkpoint")
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
    benign, robust = (_shown(folder) for folder in outcome.bundles.values())
    console.print("Bundles:", benign, robust, sep="\n  ", highlight=False, soft_wrap=True)
    console.print(f"Log:  tensorboard --logdir {_shown(outcome.folder / 'logs')}", highlight=False, soft_wrap=True)
    console.print(f"Load: from models.bundle import load_embedder; load_embedder(Path({robust!r}))", highlight=False, soft_wrap=True)


def _shown(path: Path) -> str:
    """The path as a person would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
