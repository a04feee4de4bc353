"""Do callers that ask for as many results as they can make other callers wait?

    python benchmarks/large_answers.py           # two minutes
    python benchmarks/large_answers.py --tiny    # a try, in half a minute

One caller sends single queries, first alone, then while another caller asks for the largest k over several connections
at once, from an index without metadata and from one whose items have as much as they may. Each caller has its own API
key; the rate limit is the default. The result has the percentiles of the first caller's queries, and their ratio to
those alone. It goes to benchmarks/results/large_answers.json.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from benchmarks.attacker import Attacker, Sent, percentiles, query_ms
from benchmarks.command import BenchmarkOptions, environment, parse_options
from benchmarks.serving_processes import FORM, form, served
from benchmarks.serving_scene import prepare
from hardrank.serving.api.auth import READ_VARIABLE, new_key
from hardrank.serving.settings import Access

_METADATA_BYTES: Final = {"": 0, " with 16 KB of metadata each": 16_000}
_QUERIES: Final = (1, 4, 60)


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"seconds": 1.0, "connections": 2, "results": 100}

    seconds: float = 10.0
    """Seconds per kind of request, and alone."""
    connections: int = 8
    """Connections of the attacker."""
    results: int = 1000
    """k of the attacker, and items of the gallery."""


def request(queries: int, k: int) -> Sent:
    """Return a request for k results for each of some items."""
    if queries == 1:
        return Sent(method="GET", path=f"/v1/search?id=item-1&k={k}")
    body = form([("ids", f"item-{number}".encode()) for number in range(queries)])
    return Sent(path=f"/v1/search/batch?k={k}", body=body, content_type=FORM)


def rows(options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what was measured of each kind of request."""
    caller, attacker = new_key(), new_key()
    os.environ[READ_VARIABLE] = f"{caller},{attacker}"
    with tempfile.TemporaryDirectory() as folder:
        for title, metadata_bytes in _METADATA_BYTES.items():
            scene = prepare(Path(folder), options.results, metadata_bytes=metadata_bytes)
            image = scene.first.read_bytes()
            for queries in _QUERIES:
                with served(scene, "--no-page", f"--rate={Access.rate:g}") as server:
                    query_ms(server, image, caller, 20, options.seconds)
                    alone = percentiles(query_ms(server, image, caller, 1000, options.seconds))
                    with Attacker(server, request(queries, options.results), attacker, options.connections) as attack:
                        taken = query_ms(server, image, caller, 1000, options.seconds)
                during = percentiles(taken)
                yield (
                    f"{queries} × {options.results} results{title}",
                    {
                        "alone": alone,
                        "during": during,
                        "p50_over_alone": round(during["p50_ms"] / alone["p50_ms"], 2),
                        "p99_over_alone": round(during["p99_ms"] / alone["p99_ms"], 2),
                        "queries": len(taken),
                        "statuses": dict(attack.statuses),
                    },
                )


def main() -> int:
    """Run the benchmark."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    load = os.getloadavg()[0]
    found: dict[str, Any] = {}
    for name, row in rows(options):
        found[name] = row
        print(name, row, file=sys.stderr, flush=True)
    options.write(
        "large_answers",
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": "python " + " ".join(sys.argv),
            "requests": found,
            "worst_p99_over_alone": max(row["p99_over_alone"] for row in found.values()),
            "worst_p50_over_alone": max(row["p50_over_alone"] for row in found.values()),
            "connections": options.connections,
            "load_average_before": round(load, 1),
            **environment(),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
