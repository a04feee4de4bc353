"""How soon does the audit app show a useful page, from the start of its process?

    python benchmarks/app_start.py
    python benchmarks/app_start.py --tiny

Each round starts the app in a new process, opens it in headless Chromium as soon as the server answers, and measures
seconds from the start of the process: until the server answers; until the page shows its title and its controls; until
the attack can be started. Files may be in the cache of the operating system. The load of the machine is told with the
result, which goes to benchmarks/results/app_start.json.
"""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from playwright.sync_api import Browser

from benchmarks.command import ROOT, BenchmarkOptions, environment, parse_options
from tests.audit_app.app_server import AppServer
from tests.chromium import PATIENCE_MS, chromium


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"rounds": 1}

    rounds: int = 5
    """Starts; medians are reported."""
    zoo: Path = ROOT / "models" / "zoo"
    """Where the bundles are."""
    gallery: Path | None = None
    """Images to attack; by default the test images of the newest bundle."""


def main() -> None:
    """Measure and write."""
    given = parse_options(Options, doc=__doc__, file=__file__)
    with chromium() as browser:
        rounds = [_start(browser, given) for _ in range(given.rounds)]
    result = {
        **{
            name: {"median": statistics.median(values), "all": values}
            for name in rounds[0]
            for values in [[one[name] for one in rounds]]
        },
        "rounds": given.rounds,
        "load_1_min": round(os.getloadavg()[0], 2),
        **environment(),
    }
    given.write("app_start", result)


def _start(browser: Browser, given: Options) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        gallery = [] if given.gallery is None else ["--gallery", str(given.gallery)]
        began = time.perf_counter()
        server = AppServer(["--zoo", str(given.zoo), "--audits", folder, *gallery], Path(folder) / "log")
        try:
            server.wait()
            answers = time.perf_counter() - began
            page = browser.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(server.url)
            page.wait_for_selector("h1")
            page.get_by_role("button", name="Attack", exact=True).wait_for()
            page.locator(".st-key-selection-models").first.wait_for(state="attached")
            useful = time.perf_counter() - began
            page.wait_for_selector(".st-key-attack button:not([disabled])")
            ready = time.perf_counter() - began
            page.close()
        finally:
            server.close()
    return {"server_s": round(answers, 2), "useful_page_s": round(useful, 2), "attack_ready_s": round(ready, 2)}


if __name__ == "__main__":
    main()
