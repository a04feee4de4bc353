"""Indexes of test images."""

import hashlib
from pathlib import Path

import numpy as np

from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import IndexManifest


def make_index(folder: Path, bundle: Path, gallery: Path, *, turn: bool = False) -> Path:
    """Index the images of a folder with a bundle; `turn` stores other vectors."""
    engine = Engine(bundle, threads=1, device=Device.CPU)
    images = from_images(gallery)
    files = sorted(path for path in gallery.rglob("*.png"))
    items = []
    for row, path in enumerate(files):
        vector = engine.embed(engine.prepare(path.read_bytes())[None])[0]
        items.append(
            NewItem(
                id=images.ids[row],
                vector=np.roll(vector, 1) if turn else vector,
                label=images.label(row),
                source=str(path),
                source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        )
    with SearchIndex.create(folder, manifest=IndexManifest.of(engine)) as index:
        index.add(items)
    return folder
