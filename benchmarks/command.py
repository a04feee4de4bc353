"""What the command lines of the benchmarks share: options from a dataclass, `--tiny`, and where the result goes."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeVar

import tyro

from hardrank.models.files import write_json

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of every benchmark; each adds its own."""

    TINY: ClassVar[dict[str, Any]] = {}
    """Values that `--tiny` takes for options that are not given."""

    tiny: bool = False
    """Try the benchmark at a size that takes about a minute; the result is only printed, unless --result is given."""
    result: Annotated[Path | None, tyro.conf.arg(aliases=["--out"])] = None
    """The JSON file for the result. Default: the file in benchmarks/results that the text above names."""

    def write(self, name: str, result: Any) -> None:
        """Print the result; write it to `--result`, or to `NAME.json` in benchmarks/results unless the run is tiny."""
        path = self.result or (None if self.tiny else RESULTS / f"{name}.json")
        if path is not None:
            write_json(path, result)
        print(json.dumps(result, indent=2, ensure_ascii=False))


T = TypeVar("T", bound=BenchmarkOptions)


def parse_options(kind: type[T], *, doc: str | None, file: str) -> T:
    """Read the options `kind` of a benchmark's command line.

    Args:
        kind: the options.
        doc: the benchmark's docstring, the text of `--help`.
        file: the benchmark's file.
    """
    default = kind(tiny=True, **kind.TINY) if "--tiny" in sys.argv else kind()
    return tyro.cli(
        kind,
        prog=f"python benchmarks/{Path(file).name}",
        description=doc,
        default=default,
        config=(tyro.conf.EnumChoicesFromValues,),
    )
