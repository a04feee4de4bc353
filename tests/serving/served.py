"""A small gallery of generated images, indexed by tiny networks and served by the real application."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from hardrank.models.preprocessing import prepare
from hardrank.serving.api.app import create_api
from hardrank.serving.api.auth import Keyring, KeyRole, key_entry, new_key
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.models import Model
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Access, Settings
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import IndexManifest
from hardrank.serving.store.thumbnails import make_thumbnail
from tests.serving.conftest import make_manifest
from tests.waiting import until

LABELS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True, eq=False)
class Painted:
    """A generated image file."""

    id: str
    label: str
    data: bytes = field(repr=False)
    path: Path | None = None


def picture(seed: int, *, width: int = 60, height: int = 40) -> Image.Image:
    """Return a noisy pattern in a color that depends on the seed."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    wave = np.sin(x / generator.uniform(2, 9) + y / generator.uniform(2, 9))[..., None]
    pixels = 128 + 60 * wave * generator.uniform(-1, 1, 3) + generator.normal(0, 10, (height, width, 3))
    pixels[..., seed % 3] += 60
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=format, **options)
    return stream.getvalue()


def paint(count: int, folder: Path | None = None) -> list[Painted]:
    """Generate `count` PNG files, and write them into `folder` if given."""
    painted = []
    for seed in range(count):
        data = encoded(picture(seed))
        path = folder / f"{seed}.png" if folder else None
        if path is not None:
            path.write_bytes(data)
        painted.append(Painted(id=f"item-{seed}", label=LABELS[seed % 3], data=data, path=path))
    return painted


def new_item(file: Painted, engine: Engine) -> NewItem:
    vector = engine.embed(prepare(file.data, engine.preprocessing)[None])[0]
    return NewItem(
        id=file.id,
        vector=vector,
        label=file.label,
        source=str(file.path) if file.path else None,
        source_sha256=hashlib.sha256(file.data).hexdigest(),
        metadata={"number": int(file.id.rpartition("-")[2])},
        thumbnail=make_thumbnail(Image.open(io.BytesIO(file.data))),
        width=60,
        height=40,
    )


def manifest_of(engine: Engine) -> IndexManifest:
    return make_manifest(dimension=engine.dimension, model_sha256=engine.model_sha256)


def build_index(folder: Path, engine: Engine, files: Sequence[Painted]) -> SearchIndex:
    index = SearchIndex.create(folder, manifest=manifest_of(engine))
    index.add([new_item(file, engine) for file in files])
    return index


def make_model(folder: Path, engine: Engine, files: Sequence[Painted], *, key: str = "benign") -> Model:
    """Return a model whose index is the subfolder `key`."""
    return Model(key=key, engine=engine, index=build_index(folder / key, engine, files))


def make_source(folder: Path, bundle: Path, engine: Engine, files: Sequence[Painted]) -> str:
    """Build the index in `folder`, and return BUNDLE=INDEX as the command `serve` takes it."""
    build_index(folder, engine, files).close()
    return f"{bundle}={folder}"


def make_keyring(**roles: KeyRole) -> tuple[Keyring, list[dict[str, str]]]:
    """Make a key of each name and role, without which nothing is allowed; return the headers that send them, too."""
    keys = {name: new_key() for name in roles}
    entries = [key_entry(name, role, keys[name]) for name, role in roles.items()]
    return Keyring(entries, anonymous=KeyRole.NOTHING), [{"X-API-Key": key} for key in keys.values()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A client of the application, its service and its gallery."""

    client: TestClient
    service: SearchService
    files: Sequence[Painted]


def make_service(
    folder: Path, engines: Sequence[Engine], files: Sequence[Painted], settings: Settings | None = None
) -> SearchService:
    models = [
        make_model(folder, engine, files, key=key) for key, engine in zip(("benign", "robust"), engines, strict=False)
    ]
    # Tests send requests fast; tests of the rate limit set their own.
    return SearchService(models, settings or Settings(access=Access(rate=0)))


@contextmanager
def serve(
    folder: Path,
    engines: Sequence[Engine],
    *,
    count: int = 30,
    settings: Settings | None = None,
    keyring: Keyring | None = None,
) -> Iterator[Served]:
    """Serve `count` images for the duration of the block."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    files = paint(count, pictures)
    service = make_service(folder, engines, files, settings)
    with TestClient(
        create_api(service, service.settings, keyring), base_url="http://localhost", raise_server_exceptions=False
    ) as client:
        wait_until_ready(client)
        yield Served(client=client, service=service, files=files)


def wait_until_ready(client: TestClient) -> None:
    until(lambda: client.get("/readyz").status_code == 200)
