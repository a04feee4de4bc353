"""How far does an attacker move a ranking who sees ids alone?

    python benchmarks/rank_only.py
    python benchmarks/rank_only.py --tiny    # a try, in a minute

Images of the demo's test set are queries. Each is changed by at most 8/255 so that a random item of the gallery rises
in its ranking (QA+), with no more than `--queries` queries. The search is the model's ONNX file with the gallery in
this process, and a real server of hardrank on the loopback, which gets PNG files over HTTP. `--visible` are the numbers
of ids that the attacker sees (0: the whole gallery); the server shows the whole gallery as well, and is compared with
the model after `--live-queries`. Ranks before and after are measured over the whole gallery. A run that was interrupted
continues from `--work`. The result goes to benchmarks/results/rank_only.json.
"""

import csv
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import tyro
from rich.console import Console

from benchmarks.command import ROOT, BenchmarkOptions, environment, parse_options
from benchmarks.serving_processes import serve
from hardrank.audit_app.blackbox.ranks import RankSearch
from hardrank.audit_app.gallery.embedded import embed_gallery
from hardrank.audit_app.gallery.image_gallery import ImageGallery, from_run
from hardrank.audit_app.gallery.served import serve_gallery
from hardrank.audit_app.rank_only.http_client import ApiClient, ClientOptions, check_address
from hardrank.audit_app.rank_only.http_system import HttpSystem, hardrank_api
from hardrank.audit_app.rank_only.result import RankOnlyResult
from hardrank.audit_app.rank_only.runner import RankOnlyOptions, run_rank_only
from hardrank.audit_app.rank_only.systems import LocalSystem, SearchSystem
from hardrank.audit_app.subjects.loading import load_subjects
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.models.bundle import load_card, preprocessing_of
from hardrank.models.progress import ConsoleProgress

GOAL: Final = 10.0
"""Median rank, in %, that a random candidate should reach on the benign model."""
AGREEMENT: Final = 5.0
"""Points by which the live server may differ."""
_PATIENCE_S: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {
        "images": 2,
        "queries": 20,
        "live_queries": 20,
        "work": Path("/tmp/rank-only-tiny"),
    }

    bundles: tuple[Path, ...] = (ROOT / "models/zoo/demo-benign",)
    """The bundles; the first is also attacked over HTTP."""
    run: Path = ROOT / "runs/demo"
    """The run whose test images are the gallery."""
    images: int = 100
    """Attacked images."""
    queries: int = 2000
    """Queries for each."""
    live_queries: int = 250
    """Queries for each over HTTP; one of the numbers after which losses are recorded, or that of `queries`."""
    visible: Annotated[tuple[int, ...], tyro.conf.arg(metavar="K [K ...]")] = (0,)
    """Numbers of visible ids; 0: the whole gallery. Other bundles and the server are attacked with the first."""
    seed: int = 0
    """Of images, candidates and search."""
    work: Path = ROOT / "runs/rank-only"
    """Folder of unfinished results."""


def main() -> None:
    """Measure and write."""
    given = parse_options(Options, doc=__doc__, file=__file__)
    gallery = from_run(given.run)
    found: dict[str, Any] = {
        "command": "python benchmarks/rank_only.py",
        "what": "QA+ by ids alone: rank of a random candidate before and after, in % of the gallery",
        "gallery": len(gallery),
        "images": given.images,
        "epsilon": "8/255",
        "queries": given.queries,
        "live_queries": given.live_queries,
        "resolution": RankSearch().resolution,
        "seed": given.seed,
        "attacks": {},
        **environment(),
    }
    whole, *few = given.visible
    first, *others = given.bundles
    plan = [(first, False, whole), (first, True, whole)]
    plan += [(one, False, whole) for one in others] + [(first, False, k) for k in few]
    with ConsoleProgress(Console(stderr=True)) as progress:
        for bundle, live, k in plan:
            queries = given.live_queries if live else given.queries
            options = RankOnlyOptions(
                search=RankSearch(queries=queries, visible=k),
                images=given.images,
                side=preprocessing_of(load_card(bundle)).resize,
                seed=given.seed,
            )
            kind = "live" if live else "local"
            path = given.work / f"{bundle.name}-{kind}-{k}-{queries}.json"
            with _system(given, bundle, gallery, live=live) as system:
                result = run_rank_only(system, gallery, options, path, command=found["command"], on_progress=progress)
                found["attacks"][f"{bundle.name} {kind} {k or system.size}"] = _summary(result)
            found["checks"] = _checks(found["attacks"], given)
            given.write("rank_only", found)


def _summary(result: RankOnlyResult) -> dict[str, Any]:
    """Summarize an attack; the losses are ranks where the whole gallery is visible."""
    assert result.summary is not None
    after = [one.after for one in result.images]
    quarters = statistics.quantiles(after, n=4) if len(after) > 1 else [after[0]] * 3
    points = sorted({at for one in result.images for at in one.losses})
    reached = {str(at): statistics.median(one.losses.get(at, one.loss_after) for one in result.images) for at in points}
    return {
        **result.summary.model_dump(),
        "quartiles_after": quarters,
        "at_most_10_percent": sum(value <= GOAL for value in after) / len(after),
        "median_loss_by_queries": reached,
        "mean_lists": statistics.mean(one.lists for one in result.images),
        "unknown_ids": len(result.unknown_ids),
    }


def _checks(attacks: dict[str, dict[str, Any]], given: Options) -> dict[str, Any]:
    """Compare the first attack with the goal, and the server with the model after as many queries."""
    local = next(iter(attacks.values()))
    live = next((one["median_after"] for name, one in attacks.items() if " live " in name), None)
    after = local["median_loss_by_queries"].get(str(given.live_queries))
    same = local["median_after"] if after is None else 100 * after
    return {
        "median_after": local["median_after"],
        "median_goal": GOAL,
        "reached": local["median_after"] <= GOAL,
        "median_after_live_queries": same,
        "live_minus_local": None if live is None else live - same,
        "live_goal": AGREEMENT,
    }


@contextmanager
def _system(given: Options, bundle: Path, gallery: ImageGallery, *, live: bool) -> Iterator[SearchSystem]:
    if not live:
        subject = load_subjects([str(bundle)], SubjectOptions(threads=1))[0]
        yield LocalSystem(served=serve_gallery(embed_gallery(subject, gallery)))
        return
    index = given.work / f"index-{bundle.name}"
    if not index.exists():
        build = [sys.executable, "serving/build.py", "--model", str(bundle), "--out", str(index), "--threads", "1"]
        listing = str(_listing(gallery, given.work / "images"))
        subprocess.run([*build, "--images", listing], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with serve(f"{bundle}={index}", "--no-page", f"--results={len(gallery)}", "--threads=1") as server:
        client = ApiClient(
            address=check_address(f"http://127.0.0.1:{server.port}", owned_host=None),
            options=ClientOptions(rate=0, timeout_s=_PATIENCE_S, attempts=20),
        )
        yield HttpSystem(client=client, adapter=hardrank_api(client, model=None))


def _listing(gallery: ImageGallery, folder: Path) -> Path:
    """Write the gallery's files into a folder, and return a CSV that lists them by their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "images.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "id", "label"))
        for row, id in enumerate(gallery.ids):
            path = folder.absolute() / f"{row}.png"
            path.write_bytes(gallery.read(row))
            rows.writerow((path, id, gallery.label(row)))
    return table


if __name__ == "__main__":
    main()
