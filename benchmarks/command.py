"""What the benchmarks share: options from a dataclass, `--tiny`, the file of the result, the record of the machine."""

import json
import sys
import time
from collections.abc import Callable
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

    def file(self, name: str) -> Path | None:
        """Return the file of the result: `--result`, or `NAME.json` in benchmarks/results; None for a tiny run."""
        return self.result or (None if self.tiny else RESULTS / f"{name}.json")

    def known(self, name: str) -> dict[str, Any]:
        """Return what the file of the result holds; empty if it does not exist."""
        path = self.file(name)
        if path is None or not path.exists():
            return {}
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def write(self, name: str, result: Any) -> None:
        """Print the result, and write it to its file."""
        if (path := self.file(name)) is not None:
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


def environment(*, low_precision: bool = False) -> dict[str, Any]:
    """Return hardware and versions, as results record them; `low_precision` says whether backbones run in bf16."""
    import torch  # here, since some benchmarks measure the memory of processes that do not need it

    from hardrank.trainer.runtime.environment import hardware, versions

    return {"hardware": hardware(torch.device("cpu"), low_precision=low_precision), "versions": versions()}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
