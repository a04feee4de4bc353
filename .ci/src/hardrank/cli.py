"""The command `hardrank`: one program, a command for each thing that it does."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final

import hardrank


@dataclass(frozen=True)
class Command:
    """A command: the module whose `main(arguments)` carries it out, and what it does in a line."""

    module: str
    summary: str


COMMANDS: Final[Mapping[str, Command]] = {
    "train": Command("hardrank.trainer.run", "train a benign and a robust model, measure both, export both to ONNX"),
    "study": Command("hardrank.trainer.study", "compare defenses: rows and seeds of one recipe, as a table and plots"),
    "index": Command("hardrank.serving.build", "make an index of your images with a model, or change one"),
    "serve": Command("hardrank.serving.app", "serve image search: a page and an HTTP API"),
    "keys": Command("hardrank.serving.keys", "make, list and remove API keys of the server"),
    "scan": Command("hardrank.serving.scan", "list suspicious items of an index: hubs, and items models disagree on"),
    "audit": Command("hardrank.audit_app.run", "attack models and write a report, with limits for CI"),
    "leaderboard": Command("hardrank.audit_app.leaderboard", "compare audited models on one page, from their entries"),
    "probe": Command("hardrank.audit_app.probe", "attack a search that shows only ids: a model, or an API of yours"),
    "app": Command("hardrank.audit_app.start", "open the audit app: live attacks in the browser"),
    "replay": Command("hardrank.audit_app.replay", "run a recorded live attack again"),
}

_HELP: Final = """usage: hardrank COMMAND [options]

Train image search that withstands adversarial attacks, serve it, and measure how far attacks move its rankings.

1. Train. `folder` takes your own images, a folder for each class; without arguments the demo data set is used.

     hardrank train folder --data.root photos --name photos

2. Search. Index your images, then open http://127.0.0.1:7860.

     hardrank index --model models/zoo/photos-robust --images photos --out indexes/robust
     hardrank serve --model models/zoo/photos-robust=indexes/robust

3. Audit. Attack the models on the test images, whose classes training has not seen, and read audits/photos/report.html;
   or watch attacks live at http://127.0.0.1:8501.

     hardrank audit --models models/zoo/photos-benign models/zoo/photos-robust --run runs/photos --out audits/photos
     hardrank app

Commands (`hardrank COMMAND --help` explains each):
{commands}

  --help     show this page
  --version  show the version
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 success, 2 invalid arguments."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in {"-h", "--help", "help"}:
        print(help_page())
        return 0
    if given[0] == "--version":
        print(f"hardrank {hardrank.version()}")
        return 0
    if given[0] not in COMMANDS:
        near = difflib.get_close_matches(given[0], COMMANDS, n=1)
        meant = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}."
        print(f"hardrank: unknown command {given[0]!r}; {meant} See hardrank --help", file=sys.stderr)
        return 2
    try:
        module = import_module(COMMANDS[given[0]].module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "hardrank":
            raise
        print(f"hardrank {given[0]} needs the library {error.name}: pip install {error.name}", file=sys.stderr)
        return 2
    status: int = module.main(given[1:])
    return status


def help_page() -> str:
    """Return the text of `hardrank --help`."""
    rows = "\n".join(f"  {name:<11}  {command.summary}" for name, command in COMMANDS.items())
    return _HELP.format(commands=rows)


if __name__ == "__main__":
    sys.exit(main())
