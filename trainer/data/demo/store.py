"""A demo set on disk: written as a whole, identified by its manifest, checked file by file.

<root>/manifest.json
<root>/train/<class>/00.png …
<root>/test/<class>/00.png …
"""

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardrank.models.files import replace_folder, restore_folder, unfinished_folder
from hardrank.models.home import typed
from hardrank.trainer.data.demo.errors import DemoDamagedError, DemoFolderError
from hardrank.trainer.data.demo.picture import picture
from hardrank.trainer.data.demo.specification import DemoOptions, Half, classes

GENERATOR_VERSION = "1"
"""Increased whenever the same options give other images."""
MANIFEST = "manifest.json"
_KIND = "hardrank demo set"


def ignore_progress(done: int, total: int) -> None:
    """A progress callback that does nothing."""


def manifest_of(options: DemoOptions, files: dict[str, str]) -> dict[str, Any]:
    """Return the manifest of a set: the options determine everything but `files`."""
    specified = classes(options.extra_train_classes or 0)
    half_classes = {half: sum(one.half is half for one in specified) for half in Half}
    return {
        "kind": _KIND,
        "generator_version": GENERATOR_VERSION,
        # Through JSON and back, to compare with a manifest that was read.
        "options": json.loads(json.dumps(options.as_dict())),
        "seed": options.seed,
        "classes": [
            {
                "name": one.name,
                "half": one.half.value,
                "shape": one.shape.value,
                "pattern": one.pattern.value,
                "palette": one.palette.value,
                "material": one.material.value,
            }
            for one in specified
        ],
        "counts": {
            "classes": len(specified),
            "images": sum(options.images_of(one.half) for one in specified),
            **{f"{half}_classes": n for half, n in half_classes.items()},
            **{f"{half}_images": n * options.images_of(half) for half, n in half_classes.items()},
        },
        "files": files,
    }


def generate(
    root: Path, options: DemoOptions | None = None, *, progress: Callable[[int, int], None] = ignore_progress
) -> dict[str, Any]:
    """Draw a demo set and return its manifest.

    The same options give the same bytes, with the same versions of NumPy and Pillow. `root` is replaced as a whole when
    the set is complete.

    Args:
        root: The folder of the set. Another demo set in it is replaced.
        options: Size and variety of the set.
        progress: Called with (done, total) after each image.

    Raises:
        DemoFolderError: `root` contains anything but a demo set.
    """
    options = options or DemoOptions()
    _refuse_foreign(root)
    with unfinished_folder(root) as fresh:
        manifest = manifest_of(options, _draw(fresh, options, progress))
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if not _is_intact(root, manifest):  # another process may have finished the same set meanwhile
            replace_folder(fresh, root)
    return manifest


def ensure(
    root: Path, options: DemoOptions | None = None, *, progress: Callable[[int, int], None] = ignore_progress
) -> dict[str, Any]:
    """Return the manifest of the set in `root`, and draw the set first unless it exists with these options.

    A set of other options or of another version of the generator is replaced.

    Raises:
        DemoDamagedError: Files of the set are missing, changed or not in the manifest.
        DemoFolderError: `root` contains anything but a demo set.
    """
    options = options or DemoOptions()
    restore_folder(root)
    _refuse_foreign(root)
    if not _is_set(root):
        try:
            return generate(root, options, progress=progress)
        except OSError:
            # Another process may have finished the same set in the meantime.
            if not _is_set(root):
                raise
    found = read_manifest(root)
    if {**found, "files": {}} != manifest_of(options, {}):
        return generate(root, options, progress=progress)
    verify(root)
    return found


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest in `root`; raises `DemoDamagedError` if it is missing or damaged."""
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DemoDamagedError(f"{path} cannot be read ({error}); delete {root} to draw it again.") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != _KIND or not isinstance(manifest.get("files"), dict):
        raise DemoDamagedError(f"{path} is not the manifest of a demo set; delete {root} to draw it again.")
    return manifest


def verify(root: Path) -> None:
    """Compare every file at `root` with the manifest; raises `DemoDamagedError` naming what differs."""
    recorded: dict[str, str] = read_manifest(root)["files"]
    present = {path.relative_to(root).as_posix() for path in root.rglob("*.png")}
    missing = sorted(recorded.keys() - present)
    extra = sorted(present - recorded.keys())
    changed = sorted(
        name for name in recorded.keys() & present if _sha256((root / name).read_bytes()) != recorded[name]
    )
    kinds = {"missing": missing, "changed": changed, "not in the manifest": extra}
    found = [f"{len(names)} {kind} ({names[0]})" for kind, names in kinds.items() if names]
    if found:
        raise DemoDamagedError(f"the demo set at {root} is damaged: {', '.join(found)}; delete it to draw it again.")


def _draw(folder: Path, options: DemoOptions, progress: Callable[[int, int], None]) -> dict[str, str]:
    """Draw every image of the set; returns SHA-256 by relative path."""
    files: dict[str, str] = {}
    specified = classes(options.extra_train_classes or 0)
    total = sum(options.images_of(one.half) for one in specified)
    for index, which in enumerate(specified):
        home = folder / which.half / which.name
        home.mkdir(parents=True)
        for number in range(options.images_of(which.half)):
            # One random stream per image: an image does not depend on how many others are drawn.
            rng = np.random.default_rng([options.seed, index, number])
            pixels = picture(which, side=options.side, nuisance=options.nuisance, rng=rng)
            data = _png(pixels)
            path = home / f"{number:02d}.png"
            path.write_bytes(data)
            files[path.relative_to(folder).as_posix()] = _sha256(data)
            progress(len(files), total)
    return files


def _is_intact(root: Path, manifest: dict[str, Any]) -> bool:
    """Whether `root` holds the set of this manifest, undamaged."""
    with suppress(DemoDamagedError):
        if read_manifest(root) == manifest:
            verify(root)
            return True
    return False


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_set(root: Path) -> bool:
    return (root / MANIFEST).is_file()


def _refuse_foreign(root: Path) -> None:
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise DemoFolderError(f"{root} is not a folder; give the demo set another root.")
    if root.is_dir() and any(root.iterdir()):
        if not _is_set(root):
            raise DemoFolderError(
                f"{root} contains files but no demo set: train on your own images with {typed('train')} folder "
                f"--data.root {root}, or give the demo set another root, or empty the folder."
            )
        read_manifest(root)
