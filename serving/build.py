"""Images → an index that `python serving/app.py` answers from.

    python serving/build.py --model BUNDLE --images DIR|CSV --out INDEX

The same command again goes on where it was interrupted, adds what is new and replaces what has changed.
"""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# Read when FAISS is loaded: its threads would otherwise spin while they wait, on cores that others could use.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress, StageProgress
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import Listing, list_images, list_run
from hardrank.serving.ingest.indexer import IngestOptions, IngestResult, add_images
from hardrank.serving.store.manifest import MANIFEST, AnnKind, BackendKind, BackendOptions, IndexManifest

PROBLEMS: Final = "problems.json"
"""What was left out of an index, in its folder."""

_SHOWN: Final = 10


class CommandError(HardrankError):
    """Options that do not go together."""


@dataclass(frozen=True, kw_only=True)
class Milvus:
    """Where Milvus is, with `--backend milvus`."""

    uri: str | None = None
    """A file for Milvus Lite on this machine, or http://HOST:19530 of a cluster."""
    collection: str = "hardrank"
    """What the collection's name begins with; the rest tells indexes apart."""
    token_variable: str | None = None
    """Environment variable that holds user:password or an API key."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    out: Path
    """Folder of the index; made where it is not there."""
    model: Path | None = None
    """Bundle whose network embeds the images, as models/zoo/demo-robust."""
    images: Path | None = None
    """A folder, where the folders in it name the labels, or a CSV with the columns `path[,id][,label][,more …]`."""
    from_run: Path | None = None
    """In place of --images: a run (runs/NAME) or bundle, whose test images are indexed."""
    delete: tuple[str, ...] = ()
    """Ids of items to delete."""
    compact: bool = False
    """Rebuild what searches work with, and free the space of deleted items."""
    info: bool = False
    """Say what the index holds, and nothing else."""
    backend: BackendKind = BackendKind.FAISS
    """Where vectors are searched (of a new index)."""
    structure: AnnKind = AnnKind.AUTO
    """How FAISS searches (of a new index): auto is exact as long as that is fast, then what measures best."""
    recall: float = 0.97
    """recall@10 against exact search that an approximate structure should reach (of a new index)."""
    milvus: Milvus = field(default_factory=Milvus)
    """Where Milvus is."""
    batch: int = 32
    """Images embedded at once."""
    threads: int = 0
    """Threads of the network; 0: one for each core."""
    decoders: int = 0
    """Threads that decode images; 0: one for each core."""
    device: Device = Device.AUTO
    """Where the network runs: auto takes a GPU where there is one."""


_EXAMPLES: Final = """
Examples:
  python serving/build.py --model models/zoo/demo-robust --from-run models/zoo/demo-robust --out indexes/demo-robust
  python serving/build.py --model models/zoo/demo-robust --images ~/photos --out indexes/photos
  python serving/build.py --model models/zoo/demo-robust --images more.csv --out indexes/photos    adds to it
  python serving/build.py --out indexes/photos --delete beach~1.jpg beach~2.jpg
  python serving/build.py --out indexes/photos --info
  python serving/build.py --out indexes/photos --compact

An image’s id is its path below DIR with ~ for /, unless the CSV gives another.
"""


def main(arguments: list[str] | None = None) -> int:
    """Carry out the command; gives the exit status: 0 done, 2 a mistake in what was asked, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    errors = Console(stderr=True)
    try:
        command = tyro.cli(
            Command,
            prog=typed("index"),
            description=f"{__doc__}{_EXAMPLES}",
            args=arguments,
            config=(tyro.conf.EnumChoicesFromValues, tyro.conf.FlagCreatePairsOff),
        )
        _carry_out(command, Console(), "python serving/build.py " + shlex.join(arguments))
    except HardrankError as error:
        errors.print(f"[bold red]error[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except OSError as error:
        errors.print(
            f"[bold red]error[/]: {escape(str(error))}; check the path, its rights and the room",
            highlight=False,
            soft_wrap=True,
        )
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; what was indexed so far stays, and the same command goes on from there")
        return 130
    return 0


def _carry_out(command: Command, console: Console, typed: str) -> None:
    _check(command)
    if command.info:
        with SearchIndex.open(command.out, maintenance=False) as index:
            _describe(index, console)
        return
    with ConsoleProgress(console) as show:

        def progress(stage: str, done: int, total: int) -> None:
            show(StageProgress(stage=stage, done=done, total=total))

        if command.model is not None:
            listing = list_images(command.images) if command.images else list_run(command.from_run or Path())
            engine = Engine(command.model, threads=command.threads, device=command.device)
            index = _open(command, engine, typed)
        else:
            index = SearchIndex.open(command.out, writable=True, maintenance=False)
        with index:
            index.delete(command.delete)
            if command.model is not None:
                _fill(index, engine, listing, command, progress, console)
            if command.compact:
                index.compact(progress=progress)
            else:
                index.optimize(progress=progress)
            _describe(index, console)


def _check(command: Command) -> None:
    sources = [name for name in ("images", "from_run") if getattr(command, name) is not None]
    if len(sources) > 1:
        raise CommandError("give --images or --from-run, not both")
    if bool(sources) != (command.model is not None):
        raise CommandError("to index images give both --model BUNDLE and --images DIR|CSV (or --from-run RUN)")
    if not (sources or command.delete or command.compact or command.info):
        raise CommandError(
            "nothing to do: give --model BUNDLE and --images DIR|CSV to index images, or --delete, --compact, --info"
        )


def _open(command: Command, engine: Engine, typed: str) -> SearchIndex:
    """Open the index that is there, or make one."""
    options = _backend_options(command)
    if not (command.out / MANIFEST).exists():
        manifest = IndexManifest.of(engine, backend=options, command=typed)
        return SearchIndex.create(command.out, manifest=manifest, maintenance=False)
    index = SearchIndex.open(command.out, writable=True, maintenance=False)
    index.manifest.check_model(command.out, engine.model_sha256, str(command.model))
    own = index.manifest.backend
    if options not in (own, BackendOptions()):
        index.close()
        changed = [name for name in BackendOptions.model_fields if getattr(own, name) != getattr(options, name)]
        raise CommandError(
            f"{command.out} was made with other values of {', '.join(changed)}; leave them out to go on with it, or "
            "give another --out"
        )
    return index


def _backend_options(command: Command) -> BackendOptions:
    try:
        return BackendOptions(
            kind=command.backend, structure=command.structure, recall=command.recall, **vars(command.milvus)
        )
    except ValidationError as error:
        raise CommandError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def _fill(
    index: SearchIndex,
    engine: Engine,
    listing: Listing,
    command: Command,
    progress: Callable[[str, int, int], None],
    console: Console,
) -> None:
    filled = add_images(
        index,
        engine,
        listing,
        options=IngestOptions(batch=command.batch, decoders=command.decoders),
        progress=lambda done, total: progress("images", done, total),
    )
    _name_problems(index.folder, filled, console)
    console.print(
        f"{filled.added} added, {filled.replaced} replaced, {filled.unchanged} indexed already, "
        f"{len(filled.problems)} left out",
        highlight=False,
    )


def _name_problems(folder: Path, filled: IngestResult, console: Console) -> None:
    """Write problems.json, and show the first of them."""
    problems = [{"path": one.path, "kind": str(one.kind), "detail": one.detail} for one in filled.problems]
    counts = dict(Counter(str(one.kind) for one in filled.problems))
    write_json(folder / PROBLEMS, {"counts": counts, "problems": problems})
    for one in filled.problems[:_SHOWN]:
        detail = f" ({one.detail})" if one.detail else ""
        console.print(f"left out: {one.path}: {one.kind}{detail}", highlight=False, markup=False, soft_wrap=True)
    if len(filled.problems) > _SHOWN:
        more = len(filled.problems) - _SHOWN
        console.print(f"… and {more} more, all in {folder / PROBLEMS}", markup=False, soft_wrap=True)


def _describe(index: SearchIndex, console: Console) -> None:
    stats, manifest = index.stats(), index.manifest
    labels = index.labels()
    lines = {
        "index": str(index.folder),
        "model": f"{manifest.model} (SHA-256 {manifest.model_sha256[:12]}…)",
        "items": f"{stats.size} with {len(labels)} labels" + (f"; {stats.deleted} deleted" if stats.deleted else ""),
        "search": " ".join([stats.backend, *(f"{name}={value}" for name, value in stats.parameters.items())]),
        "disk": f"{stats.disk_bytes / 2**20:.1f} MiB",
        "memory": f"{stats.memory_bytes / 2**20:.1f} MiB, and {stats.vector_bytes / 2**20:.1f} MiB of vectors mapped "
        "from their file",
    }
    for name, value in lines.items():
        console.print(f"{name:<8}{value}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
