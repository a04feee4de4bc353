"""How long does a live attack take, and how often is the page redrawn?

    python benchmarks/live_attack.py
    python benchmarks/live_attack.py --tiny    # a try, in a minute

The app runs as a person starts it, on the newest pair of bundles (the `demo` models), and a headless Chromium looks at
it. After a visit that loads models and gallery, each round opens the page anew and measures: seconds until the image
and what the models answer now are painted; seconds of the attack of 32 steps on both models as the page begins with it
(12 steps a second, for eyes to follow) and as fast as can be, from the click to the rankings on the screen; redraws
of the running attack a second, counted in the browser as frames in which a picture or a number changed. How busy the
machine was besides is told by the load and by the share of the two cores that other programs took. The result goes to
benchmarks/results/live_attack.json.
"""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import psutil
from playwright.sync_api import Browser, Page

from benchmarks.command import ROOT, BenchmarkOptions, environment, parse_options
from tests.audit_app.app_server import AppServer
from tests.chromium import PATIENCE_MS, chromium

STEPS: Final = 32


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"rounds": 1}

    rounds: int = 5
    """Attacks at each pace; medians are reported."""
    zoo: Path = ROOT / "models" / "zoo"
    """Where the bundles are."""


# Counts the frames of the browser in which the running attack looks otherwise than in the frame before.
COUNT: Final = """
() => {
  window.redraws = []; let before = '';
  const look = (now) => {
    const host = document.querySelector('.st-key-running [data-testid], .st-key-running');
    const inside = host ? [...host.querySelectorAll('*')] : [];
    const panel = inside.map((e) => e.shadowRoot?.querySelector('.panel')).find(Boolean);
    const text = panel ? [...panel.querySelectorAll('dd')].map((e) => e.textContent).join() +
      [...panel.querySelectorAll('img')].map((e) => e.src).join() : '';
    if (text && text !== before) window.redraws.push(now);
    before = text;
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}
"""


def main() -> None:
    """Measure and write."""
    given = parse_options(Options, doc=__doc__, file=__file__)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        server = AppServer(["--zoo", str(given.zoo), "--audits", folder], Path(folder) / "log")
        try:
            server.wait()
            began = time.perf_counter()
            _round(browser, server, fast=True)
            first = time.perf_counter() - began
            usage = _Usage(server)
            slow = [_round(browser, server, fast=False) for _ in range(given.rounds)]
            fast = [_round(browser, server, fast=True) for _ in range(given.rounds)]
            result = {
                "steps": STEPS,
                "rounds": given.rounds,
                "first_visit_s": round(first, 2),
                "paint_s": _summary([one["paint_s"] for one in slow + fast]),
                "attack_paced_s": _summary([one["attack_s"] for one in slow]),
                "attack_s": _summary([one["attack_s"] for one in fast]),
                "worker_s": _summary([one["worker_s"] for one in fast]),
                "redraws_a_second": _summary([one["redraws_a_second"] for one in slow]),
                "busy": usage.told(),
                **environment(),
            }
        finally:
            server.close()
    given.write("live_attack", result)


def _round(browser: Browser, server: AppServer, *, fast: bool) -> dict[str, float]:
    """Visit the page, attack, and measure."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    began = time.perf_counter()
    page.goto(server.url)
    page.wait_for_selector(".st-key-setup img")
    page.wait_for_selector(".st-key-answers img")
    paint = time.perf_counter() - began
    page.wait_for_selector(".st-key-attack button:not([disabled])")
    if fast:
        _as_fast_as_can_be(page)
    page.evaluate(COUNT)
    began = time.perf_counter()
    page.click(".st-key-attack button")
    page.wait_for_selector(".st-key-rankings svg image")
    seconds = time.perf_counter() - began
    redraws: list[float] = page.evaluate("window.redraws")
    page.get_by_role("tab", name="Numbers").click()
    told = page.get_by_text(" passes in ").inner_text()
    page.close()
    span = (redraws[-1] - redraws[0]) / 1000 if len(redraws) > 1 else 0.0
    return {
        "paint_s": paint,
        "attack_s": seconds,
        "worker_s": max(float(part.split(" in ")[1].split(" ")[0]) for part in told.split(";")),
        "redraws_a_second": (len(redraws) - 1) / span if span else 0.0,
    }


def _as_fast_as_can_be(page: Page) -> None:
    page.get_by_text("All options").click()
    field = page.locator(".st-key-live-pace").locator("[role=slider], input[type=range]").first
    field.wait_for(state="attached")
    field.focus()
    field.press("End")
    page.wait_for_timeout(1500)


class _Usage:
    """What other programs took of the processor meanwhile."""

    def __init__(self, server: AppServer) -> None:
        self._process = psutil.Process(server.process.pid)
        self._before, self._own = psutil.cpu_times(), self._process.cpu_times()
        self._began = time.perf_counter()

    def told(self) -> dict[str, Any]:
        """Load, and cores that were busy with anything, the app among it."""
        now, own, seconds = psutil.cpu_times(), self._process.cpu_times(), time.perf_counter() - self._began
        idle = now.idle - self._before.idle
        mine = own.user + own.system - self._own.user - self._own.system
        cores = os.cpu_count() or 1
        return {
            "load_1_min": round(os.getloadavg()[0], 1),
            "cores": cores,
            "cores_busy": round(cores - idle / seconds, 2),
            "cores_of_the_app": round(mine / seconds, 2),
        }


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


if __name__ == "__main__":
    main()
