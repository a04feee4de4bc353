"""Embed images with a model and store them in an index, from which `hardrank serve` answers searches.

The same command again resumes after an interruption, adds new images, and replaces images that have changed. If the
folder was moved, it stores the new paths.
"""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

# FAISS reads this on import. Its idle threads would otherwise spin on cores that others could use.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tyro
from pydantic import ValidationError
from rich.console import Console

from hardrank.models.command_errors import report_errors
from hardrank.models.cores import usable_cores
from hardrank.models.decode_limits import DEFAULT_LIMITS, DecodeLimits
from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress, StageProgress
from hardrank.serving.ann.backend import ShowProgress
from hardrank.serving.ann.faiss_kinds import MIN_ITEMS
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import ImageList, NoImagesError, list_images, list_run
from hardrank.serving.ingest.indexer import IngestOptions, IngestResult, add_images
from hardrank.serving.ingest.prune import prune
from hardrank.serving.search.item_writer import ItemWriter
from hardrank.serving.store.manifest import (
    DEFAULT_COLLECTION,
    MANIFEST,
    AnnKind,
    BackendKind,
    BackendOptions,
    IndexManifest,
    read_manifest,
)

PROBLEMS: Final = "problems.json"
"""File in the index's folder that lists the images left out by the last build."""

_SHOWN: Final = 10
"""Number of left-out images to print."""


class IndexCommandError(HardrankError):
    """Options that contradict each other, or the index."""


class NothingIndexedError(HardrankError):
    """A build whose images were all left out."""


@dataclass(frozen=True, kw_only=True)
class MilvusAddress:
    """Where Milvus is, for `--backend milvus`."""

    uri: str | None = None
    """File for Milvus Lite on this machine (default: milvus.db in the index), or http://HOST:19530 of a server."""
    collection: str = DEFAULT_COLLECTION
    """Prefix of the collection's name; the rest distinguishes indexes."""
    token_variable: str | None = None
    """Environment variable that holds user:password or an API key."""


@dataclass(frozen=True, kw_only=True)
class IndexCommand:
    """Options of the command."""

    out: Path
    """Folder of the index; created if it does not exist."""
    model: Path | None = None
    """Bundle of the model that embeds the images, such as models/zoo/demo-robust."""
    images: Path | None = None
    """Folder, whose subfolders are the labels, or CSV file with the columns `path[,id][,label][,more …]`."""
    from_run: Path | None = None
    """Instead of --images: a run (runs/NAME) or bundle, whose test images are indexed."""
    delete: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Ids of items to delete."""
    prune: bool = False
    """Delete the items whose image files no longer exist; those that were uploaded stay. Nothing is deleted if no file
    is left of a folder, as if its disk were not mounted."""
    gone_for_good: Annotated[tuple[Path, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """With --prune: folders of which no file need be left."""
    compact: bool = False
    """Free the space of deleted items, and rebuild what searches use."""
    info: bool = False
    """Print what the index holds, and change nothing."""
    backend: BackendKind = BackendKind.FAISS
    """Where vectors are searched (new index only)."""
    structure: AnnKind = AnnKind.AUTO
    """Kind of ANN index (new index only). auto: exact while that is fast, then the kind that measures best."""
    recall: float = 0.97
    """Recall@10 against exact search that an ANN index should reach (new index only)."""
    milvus: MilvusAddress = field(default_factory=MilvusAddress)
    batch: int = 32
    """Images per forward pass of a GPU; each thread of a CPU embeds 8 at most."""
    image_pixels: int = DEFAULT_LIMITS.max_pixels
    """Largest width × height of an image, pixels; a baseline JPEG may have four times as many."""
    threads: int = field(default_factory=usable_cores)
    """CPU threads; by default HARDRANK_THREADS if set, else one per usable core."""
    decoders: int = 0
    """Threads that decode images; 0: one per usable core."""
    device: Device = Device.AUTO
    """Where the network runs; auto: on a GPU if there is one."""


@report_errors(
    interrupted="interrupted; what is indexed so far is kept, and the same command continues from there",
    remark="check the path, its permissions, and the free disk space",
    statuses={NoImagesError: 1, NothingIndexedError: 1},
)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Options; None for those of the process.

    Returns:
        Exit status: 0 success, 1 no image could be indexed, 2 invalid options or input, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    program = typed("index")
    command = tyro.cli(
        IndexCommand,
        prog=program,
        description=f"{__doc__}{_examples(program)}",
        args=arguments,
        config=(tyro.conf.EnumChoicesFromValues, tyro.conf.FlagCreatePairsOff),
    )
    _run(command, Console(), f"{program} {shlex.join(arguments)}")
    return 0


def _examples(program: str) -> str:
    return f"""
Examples:
  {program} --model models/zoo/demo-robust --images ~/photos --out indexes/photos
      index a folder; the subfolders are the labels
  {program} --model models/zoo/demo-robust --images more.csv --out indexes/photos
      add the images that a CSV file lists
  {program} --model models/zoo/demo-robust --from-run models/zoo/demo-robust --out indexes/demo-robust
      index the test images of the run that trained a model
  {program} --out indexes/photos --info
      print what the index holds
  {program} --out indexes/photos --delete beach~1.jpg beach~2.jpg
      delete items by id; then free their space with --compact

An image's id is its path below the folder with ~ for /, unless the CSV file has a column id.
"""


def _run(command: IndexCommand, console: Console, typed_command: str) -> None:
    _check(command)
    if command.info:
        with SearchIndex.open(command.out, maintenance=False) as index:
            _describe(index, console)
        return
    threads = command.threads or usable_cores()
    with ConsoleProgress(console) as show:

        def progress(step: str, done: int, total: int) -> None:
            show(StageProgress(stage=step, done=done, total=total))

        if command.model is not None:
            listing = list_images(command.images) if command.images else list_run(command.from_run or Path())
            engine = Engine(command.model, threads=threads, device=command.device, side_by_side=True)
            index = _open(command, engine, typed_command)
        else:
            index = SearchIndex.open(command.out, writable=True, maintenance=False)
        with index:
            ItemWriter({"": index}).settle()
            index.delete(command.delete)
            if command.model is not None:
                _add(index, engine, listing, command, progress, console)
            if command.prune:
                deleted = prune(index, gone_for_good=command.gone_for_good)
                console.print(f"{deleted} deleted, whose files no longer exist", highlight=False)
            if command.compact:
                index.compact(threads=threads, progress=progress)
            else:
                index.optimize(threads=threads, progress=progress)
            _describe(index, console)


def _check(command: IndexCommand) -> None:
    sources = [name for name in ("images", "from_run") if getattr(command, name) is not None]
    if command.threads < 0:
        raise IndexCommandError(f"--threads is {command.threads}; give at least 1, or 0 for one per usable core")
    if len(sources) > 1:
        raise IndexCommandError("give --images or --from-run, not both")
    if bool(sources) != (command.model is not None):
        raise IndexCommandError("to index images give both --model BUNDLE and --images DIR|CSV (or --from-run RUN)")
    if command.gone_for_good and not command.prune:
        raise IndexCommandError("--gone-for-good says which folders --prune may empty; give --prune, too")
    if not (sources or command.delete or command.prune or command.compact or command.info):
        raise IndexCommandError(
            "nothing to do: give --model BUNDLE and --images DIR|CSV to index images, or --delete, --prune, --compact, "
            "--info"
        )


def _open(command: IndexCommand, engine: Engine, typed_command: str) -> SearchIndex:
    """Open the index if it exists, else create it."""
    options = _backend_options(command)
    if not (command.out / MANIFEST).exists():
        manifest = IndexManifest.of(engine, backend=options, command=typed_command)
        return SearchIndex.create(command.out, manifest=manifest, maintenance=False)
    manifest = read_manifest(command.out)
    manifest.check_model(command.out, engine.model_sha256, str(command.model))
    own = manifest.backend
    if options not in (own, BackendOptions()):
        changed = [name for name in BackendOptions.model_fields if getattr(own, name) != getattr(options, name)]
        raise IndexCommandError(
            f"{command.out} was created with other values of {', '.join(changed)}; omit them to continue with it, or "
            "give another --out"
        )
    return SearchIndex.open(command.out, writable=True, maintenance=False)


def _backend_options(command: IndexCommand) -> BackendOptions:
    try:
        return BackendOptions(
            kind=command.backend, structure=command.structure, recall=command.recall, **vars(command.milvus)
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = "".join(f"--{name}: " for name in first["loc"])
        raise IndexCommandError(option + first["msg"].removeprefix("Value error, ")) from error


def _add(
    index: SearchIndex,
    engine: Engine,
    listing: ImageList,
    command: IndexCommand,
    progress: ShowProgress,
    console: Console,
) -> None:
    result = add_images(
        index,
        engine,
        listing,
        options=IngestOptions(
            batch=command.batch, decoders=command.decoders, limits=DecodeLimits(max_pixels=command.image_pixels)
        ),
        progress=lambda done, total: progress("images", done, total),
    )
    _report_problems(index.folder, result, console)
    moved = f" ({result.moved} of them moved)" if result.moved else ""
    console.print(
        f"{result.added} added, {result.replaced} replaced, {result.unchanged} already indexed{moved}, "
        f"{len(result.problems)} left out",
        highlight=False,
    )
    if result.problems and not result.added + result.replaced + result.unchanged:
        first = result.problems[0]
        raise NothingIndexedError(
            f"no image could be indexed: all {len(result.problems)} were left out, the first ({first.path}) because: "
            f"{first.kind}; see {index.folder / PROBLEMS}"
        )


def _report_problems(folder: Path, result: IngestResult, console: Console) -> None:
    """Write problems.json, and print the first problems."""
    problems = [{"path": one.path, "kind": str(one.kind), "detail": one.detail} for one in result.problems]
    counts = dict(Counter(str(one.kind) for one in result.problems))
    write_json(folder / PROBLEMS, {"counts": counts, "problems": problems})
    for one in result.problems[:_SHOWN]:
        detail = f" ({one.detail})" if one.detail else ""
        console.print(f"left out: {one.path}: {one.kind}{detail}", highlight=False, markup=False, soft_wrap=True)
    if len(result.problems) > _SHOWN:
        more = len(result.problems) - _SHOWN
        console.print(f"… and {more} more, all in {folder / PROBLEMS}", markup=False, soft_wrap=True)


def _describe(index: SearchIndex, console: Console) -> None:
    stats, manifest = index.stats(), index.manifest
    labels = index.labels()
    lines = {
        "index": str(index.folder),
        "model": f"{manifest.model} (SHA-256 {manifest.model_sha256[:12]}…)",
        "items": f"{stats.size} with {len(labels)} labels" + (f"; {stats.deleted} deleted" if stats.deleted else ""),
        "search": " ".join([stats.backend, *(f"{name}={value}" for name, value in stats.parameters.items())]),
        "disk": _mib(stats.disk_bytes),
        "memory": f"{_mib(stats.memory_bytes)} for the search structure and tables, plus {_mib(stats.vector_bytes)} "
        "for vectors, which are memory-mapped from disk",
    }
    for name, value in lines.items():
        console.print(f"{name:<8}{value}", highlight=False, markup=False, soft_wrap=True)
    requested = manifest.backend.structure
    too_few = manifest.backend.kind is BackendKind.FAISS and stats.size < MIN_ITEMS
    if too_few and requested not in (AnnKind.AUTO, AnnKind.FLAT):
        console.print(
            f"note: flat is used instead of {requested}, as exact search is fast for fewer than {MIN_ITEMS} items; "
            f"{requested} is built when there are more",
            highlight=False,
            soft_wrap=True,
        )


def _mib(size: int) -> str:
    """Return a number of bytes in MiB, or in KiB below one MiB."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


if __name__ == "__main__":
    sys.exit(main())
