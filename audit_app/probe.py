"""Attack a search that shows only the ids of its first results: no scores, no embeddings, no gradients.

The search is a MODEL (a bundle or an ONNX file) with the images of PLACE, or a live HTTP API. A live API is attacked
only if --url names it, and only on this machine, unless --owned-host repeats its host name: attack what is yours, or
what its owner has agreed to. Each query is one image file; --queries bounds them for each attacked image.

PLACE contains the attacked images and the targets: an index, a run, a bundle, a folder of images or a CSV. Its ids must
be those that the search returns. OUT receives the result as JSON, and after Ctrl-C the same command continues from it.

Examples:
  Lift a random image from the middle of the ranking, seeing the whole ranking:
    {command} --model models/zoo/demo-benign --gallery runs/demo --out probes/whole.json
  The same seeing ten ids:
    {command} --model models/zoo/demo-benign --gallery runs/demo --visible 10 --out probes/ten.json
  A live server of hardrank on this machine:
    {command} --url http://127.0.0.1:7860 --served-model benign --gallery indexes/demo-benign --out probes/live.json
  Another API of yours, which takes a file as the body of a POST, and lists ids as {{"hits": [{{"name": …}}]}}:
    {command} --url https://search.example.org --owned-host search.example.org --api json --path /find?n={{k}} \\
        --ids hits.*.name --most-results 50 --rate 2 --gallery photos --out probes/other.json

The environment variable HARDRANK_PROBE_KEY holds the API key, if the API needs one.
Exit status: 0 done, 2 invalid arguments or an API that does not answer, 130 interrupted.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import tyro
from rich.console import Console

from hardrank.audit_app.blackbox.ranks import EXPLORED, RESOLUTION, RankSearch
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.embedded import embed_gallery
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.gallery.served import serve_gallery
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.rank_only.figures import RANK_FIGURES
from hardrank.audit_app.rank_only.http_client import ApiClient, ClientOptions, check_address
from hardrank.audit_app.rank_only.http_system import HttpSystem, JsonApi, hardrank_api
from hardrank.audit_app.rank_only.result import RankOnlyResult
from hardrank.audit_app.rank_only.runner import RankOnlyOptions, run_rank_only
from hardrank.audit_app.rank_only.systems import LocalSystem, SearchSystem
from hardrank.audit_app.subjects.loading import load_subjects
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.models.command_errors import report_errors
from hardrank.models.cores import usable_cores
from hardrank.models.home import typed
from hardrank.models.progress import ConsoleProgress, OnProgress
from hardrank.trainer.config import pixels

KEY: Final = "HARDRANK_PROBE_KEY"
"""Environment variable with the API key."""
_SIDE: Final = 224
_WHICH = tyro.conf.create_mutex_group(required=True, title="what is attacked")


class ApiKind(StrEnum):
    """Kind of a live API."""

    HARDRANK = "hardrank"
    JSON = "json"
    """Any API that takes a file as the body of a POST and answers in JSON."""


@dataclass(frozen=True, kw_only=True)
class TargetArguments:
    """What is attacked; give one of --model and --url."""

    model: Annotated[str | None, _WHICH, tyro.conf.arg(metavar="MODEL")] = None
    """A bundle or an ONNX file, searched in this process."""
    url: Annotated[str | None, _WHICH, tyro.conf.arg(metavar="URL")] = None
    """Address of a live search API."""


@dataclass(frozen=True, kw_only=True)
class LiveArguments:
    """With --url: the live API."""

    owned_host: Annotated[str | None, tyro.conf.arg(metavar="HOST")] = None
    """Host of --url, to confirm that it is yours. Not needed on this machine."""
    api: ApiKind = ApiKind.HARDRANK
    """How it is asked."""
    served_model: Annotated[str | None, tyro.conf.arg(metavar="KEY")] = None
    """hardrank: the model, if several are served."""
    path: str = ""
    """json: path and query after the address; {k} stands for the number of results."""
    ids: str = "results.*.id"
    """json: where the ids are in the answer, by names, positions and * for all elements."""
    most_results: int = 100
    """json: largest number of results."""
    items: int | None = None
    """json: number of items that are searched; by default those of the gallery."""
    rate: float = 20.0
    """Most queries per second; 0: no limit."""
    timeout: float = 30.0
    """Seconds until a request must be answered."""
    largest_answer: int = 32
    """MiB of an answer."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    target: TargetArguments
    gallery: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PLACE [PLACE ...]")]
    """The images."""
    out: Annotated[Path, tyro.conf.arg(metavar="JSON")]
    """The result."""
    attack: Annotated[str, tyro.conf.arg(metavar="|".join(RANK_FIGURES))] = "QA+"
    """QA+: targets rise; QA-: they fall; TMA: the target's results appear; ES: the results change; ORDER: the first
    results appear in a given order."""
    targets: int = 1
    """Number of targets of an image; ORDER: of items to order."""
    visible: int = 0
    """k, how many ids of an answer the attacker sees; 0: as many as the search shows."""
    queries: int = 2000
    """Largest number of queries for each attacked image."""
    explored: int = EXPLORED
    """Queries of these that are images of the gallery, to learn which items lead to a target that is not visible."""
    epsilon: str = "8/255"
    """L∞ budget."""
    resolution: int = RESOLUTION
    """Frequencies along a side of the slopes that the search learns."""
    images: int = 100
    """Number of attacked images, a seeded sample; 0 for all."""
    side: int | None = None
    """Side in pixels of the square PNG that is sent; by default what the model resizes to, or 224."""
    seed: int = 0
    """Seed of the sample, the targets and the search."""
    block: int = 25
    """Images attacked at a time. An interrupted run loses at most these."""
    threads: int = field(default_factory=usable_cores)
    """CPU threads of the model."""
    live: LiveArguments = field(default_factory=LiveArguments)


@report_errors(interrupted="interrupted; finished images are kept, and the same command continues from there")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 done, 2 error, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console = Console()
    command = tyro.cli(
        Command,
        prog=typed("probe"),
        description=(__doc__ or "").format(command=typed("probe")),
        args=list(arguments),
        config=(tyro.conf.EnumChoicesFromValues, tyro.conf.OmitArgPrefixes),
    )
    with ConsoleProgress(console) as progress:
        result = _probe(command, f"{typed('probe')} {shlex.join(arguments)}", progress)
    for line in _lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _probe(command: Command, text: str, progress: OnProgress) -> RankOnlyResult:
    gallery = GallerySource.at(*command.gallery).open()
    if command.target.url is not None:
        system: SearchSystem = _live(command.target.url, command.live, len(gallery))
        side = _SIDE
    else:
        local = _local(command, gallery, progress)
        system, gallery, side = local, local.served.gallery, local.served.subject.preprocessing.resize
    options = RankOnlyOptions(
        attack=command.attack,
        targets=command.targets,
        search=RankSearch(
            queries=command.queries,
            visible=command.visible,
            explored=command.explored,
            resolution=command.resolution,
        ),
        epsilon=float(pixels(command.epsilon)),
        images=command.images or None,
        side=command.side or side,
        seed=command.seed,
        block=command.block,
    )
    return run_rank_only(system, gallery, options, command.out, command=text, on_progress=progress)


def _local(command: Command, gallery: ImageGallery, progress: OnProgress) -> LocalSystem:
    subject = load_subjects([command.target.model or ""], SubjectOptions(threads=command.threads))[0]
    return LocalSystem(served=serve_gallery(embed_gallery(subject, gallery, on_progress=progress)))


def _live(url: str, live: LiveArguments, items: int) -> HttpSystem:
    if live.api is ApiKind.HARDRANK and live.path:
        raise AuditError("--path is for --api json; the API of hardrank is below the address itself")
    client = ApiClient(
        address=check_address(url, owned_host=live.owned_host),
        options=ClientOptions(timeout_s=live.timeout, rate=live.rate, largest_answer=live.largest_answer * 2**20),
        key=os.environ.get(KEY) or None,
    )
    if live.api is ApiKind.HARDRANK:
        return HttpSystem(client=client, adapter=hardrank_api(client, model=live.served_model))
    size = items if live.items is None else live.items
    adapter = JsonApi(size=size, most_results=min(size, live.most_results), path=live.path, ids=live.ids)
    return HttpSystem(client=client, adapter=adapter)


def _lines(result: RankOnlyResult) -> list[str]:
    """Describe the result."""
    one = result.summary
    if one is None:
        return ["no images"]
    found = [
        f"{one.images} images, {result.figure}",
        f"  median {one.median_before:.3g} → {one.median_after:.3g}",
        f"  mean   {one.mean_before:.3g} → {one.mean_after:.3g} "
        f"(95 %: {one.mean_after_low:.3g} to {one.mean_after_high:.3g})",
        f"  {one.mean_queries:.0f} queries an image, at most {one.most_queries}",
    ]
    if one.hidden_after:
        found.append(
            f"  images with targets outside the list: {one.hidden_after}; these ranks are at least what is counted"
        )
    if result.unknown_ids:
        found.append(f"  the gallery lacks ids that were returned, such as {', '.join(result.unknown_ids[:3])}")
    return found


if __name__ == "__main__":
    sys.exit(main())
