"""Take the screenshots of the search page and the audit app: python -m docs.figures.take_screenshots

Needs the demo models (`hardrank train demo`) and a Chromium in /usr/bin.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
import tyro
from PIL import Image

from hardrank.models.bundle import load_embedder
from hardrank.models.decoding import decode
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import Preprocessing, to_square, to_unit
from hardrank.trainer.attacks.attack import Gallery, victims_in
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackOptions, run_attack
from tests.audit_app.app_server import AppServer, finished
from tests.chromium import PATIENCE_MS, chromium
from tests.serving.process import running

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
BENIGN, ROBUST = (ROOT / "models" / "zoo" / f"demo-{kind}" for kind in ("benign", "robust"))
QUERY_CLASS: Final = "cushion-teal-marble-matte"
"""The first image of this class is the query."""
RESIZE, MARGIN = 72, 4
"""Side of the images of the demo data set, and the margin that the center crop removes on each side, in pixels."""


def main(page: Literal["all", "search", "audit"] = "all", out: Path = IMAGES) -> None:
    """Take the screenshots of the search page and of the audit app with the demo models.

    Needs the models of `hardrank train demo`, and a Chromium in /usr/bin.

    Args:
        page: Which pages to photograph.
        out: Folder for the PNG files.
    """
    if not all(bundle.is_dir() for bundle in (BENIGN, ROBUST)):
        sys.exit(f"The demo models are missing in {BENIGN.parent}. Train them first: hardrank train demo")
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        if page in {"all", "search"}:
            photograph_search_page(browser, Path(name), out)
        if page in {"all", "audit"}:
            photograph_audit_app(browser, Path(name), out)


def photograph_search_page(browser: Any, folder: Path, out: Path) -> None:
    """An attacked query, the same query unaltered in dark mode, and an example on a phone."""
    benign, attacked = folder / "benign.png", folder / "attacked.png"
    files = [path.read_bytes() for path in sorted((ROOT / "data" / "demo" / "test" / QUERY_CLASS).glob("*.png"))]
    benign.write_bytes(files[0])
    attacked.write_bytes(attacked_query(files))
    sources = []
    for bundle in (BENIGN, ROBUST):
        index = folder / bundle.name
        _python("serving/build.py", "--model", str(bundle), "--from-run", str(bundle), "--out", str(index))
        sources.append(f"{bundle}={index}")
    with running(sources, "--threads", "1") as server:
        for picture, query, scheme, (width, height), shown in (
            ("search-page", attacked, "light", (1280, 947), 1000),
            ("search-page-dark", benign, "dark", (1280, 947), 800),
            ("search-page-phone", None, "light", (390, 844), 390),
        ):
            with _page(browser, server.url, scheme, width, height) as page:
                page.wait_for_selector(".hr-example")
                if query:
                    page.set_input_files("#query input[type=file]", str(query))
                else:
                    page.click(".hr-example >> nth=3")
                page.wait_for_selector(".hr-card")
                page.mouse.move(5, 5)
                page.wait_for_timeout(2500)
                save(out / f"{picture}.png", page.screenshot(), shown)


def attacked_query(files: list[bytes]) -> bytes:
    """Return the first image after ES with ε = 8/255 against the benign model, as PNG.

    The attack includes the center crop, so that the server's preprocessing does not change its result.
    """
    network = FoldedEmbedder(load_embedder(BENIGN))

    def embed(images: torch.Tensor) -> torch.Tensor:
        return network(images[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN])

    square = Preprocessing(resize=RESIZE, crop=RESIZE)
    images = torch.from_numpy(to_unit(np.stack([to_square(decode(file), square) for file in files])))
    with torch.no_grad():
        gallery = Gallery(embed(images), torch.zeros(len(images), dtype=torch.long))
    victims = victims_in(gallery, torch.tensor([0]))
    result = run_attack(make_attack("ES"), embed, images[:1], victims, gallery, AttackOptions())
    pixels = result.images[0].mul(255).round().to(torch.uint8).permute(1, 2, 0)
    written = BytesIO()
    Image.fromarray(pixels.numpy()).save(written, "PNG")
    return written.getvalue()


def photograph_audit_app(browser: Any, folder: Path, out: Path) -> None:
    """The app's default live attack, the scorecard and the weak spots."""
    audits = folder / "audits"
    asked = ("--models", str(BENIGN), str(ROBUST), "--run", str(ROOT / "runs" / "demo"), "--attacked", "24")
    _python("audit_app/run.py", *asked, "--out", str(audits / "demo"))
    server = AppServer(["--audits", str(audits)], folder / "log")
    try:
        server.wait()
        for picture, scheme, width in (
            ("audit-live", "light", 1180),
            ("audit-live-dark", "dark", 1180),
            ("audit-live-narrow", "light", 390),
        ):
            with _page(browser, server.url, scheme, width, 1000) as page:
                page.click(".st-key-attack button:not([disabled])")
                finished(page)
                page.wait_for_timeout(2500)
                save(out / f"{picture}.png", _rankings(page))
        for picture, place, height in (("audit-scorecard", "scorecard", 1080), ("audit-weak-spots", "weak_spots", 980)):
            with _page(browser, f"{server.url}/{place}", "light", 1180, height) as page:
                page.wait_for_selector("[data-testid=stMainBlockContainer] h1")
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(6000)
                save(out / f"{picture}.png", page.screenshot())
    finally:
        server.close()


def _rankings(page: Any) -> bytes:
    """Photograph the section with both rankings."""
    top = page.get_by_role("heading", name="Rankings before and after").bounding_box()
    inside = page.locator(".st-key-rankings").bounding_box()
    x, y = max(0, inside["x"] - 16), top["y"]
    width, height = inside["width"] + 32, inside["y"] + inside["height"] + 16 - y
    scrolled = page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop")
    page.set_viewport_size({"width": page.viewport_size["width"], "height": int(y + scrolled + height) + 50})
    page.wait_for_timeout(2500)
    top = page.get_by_role("heading", name="Rankings before and after").bounding_box()
    shot: bytes = page.screenshot(clip={"x": x, "y": top["y"], "width": width, "height": height})
    return shot


def save(path: Path, png: bytes, width: int | None = None) -> None:
    """Write a screenshot, scaled to `width` pixels, with 256 colors, which makes the file three times smaller."""
    full = Image.open(BytesIO(png)).convert("RGB")
    shown = full.resize((width, round(full.height * width / full.width))) if width else full
    picture = shown.quantize(256, kmeans=1, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    print(path, picture.size)


@contextmanager
def _page(browser: Any, url: str, scheme: str, width: int, height: int) -> Iterator[Any]:
    viewport = {"width": width, "height": height}
    context = browser.new_context(viewport=viewport, color_scheme=scheme, is_mobile=width < 600)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    yield page
    context.close()


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m docs.figures.take_screenshots")
