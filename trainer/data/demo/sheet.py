"""An overview of the set as one image."""

from pathlib import Path

from PIL import Image

from hardrank.trainer.data.demo.specification import Half
from hardrank.trainer.data.demo.store import read_manifest

_PAPER = (250, 247, 241)


def contact_sheet(
    root: Path,
    *,
    half: Half | None = None,
    classes: int | None = None,
    images: int = 8,
    zoom: int = 1,
    gap: int = 2,
) -> Image.Image:
    """An RGB image with a row for each class and `images` columns, of the set at `root`.

    `half` chooses one half of the split (both without); `classes` takes that many, evenly spread over the
    sorted names (all without); `zoom` is a whole magnification; `gap` is the space between pictures, pixels.
    Raises `DemoDamagedError` where there is no set.
    """
    manifest = read_manifest(root)
    rows = [one for one in manifest["classes"] if half is None or one["half"] == half]
    if classes is not None and classes < len(rows):
        rows = [rows[i * len(rows) // classes] for i in range(classes)]
    options = manifest["options"]
    columns = min(images, options["images_per_class"])
    side = options["side"] * zoom
    step = side + gap
    sheet = Image.new("RGB", (columns * step + gap, len(rows) * step + gap), _PAPER)
    for row, one in enumerate(rows):
        for column in range(columns):
            with Image.open(root / one["half"] / one["name"] / f"{column:02d}.png") as image:
                shown = image.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(shown, (gap + column * step, gap + row * step))
    return sheet
