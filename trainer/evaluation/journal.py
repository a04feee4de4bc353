"""A journal of finished work, so that a long evaluation that was killed goes on where it was."""

import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from hardrank.models.errors import HardrankError

Columns = Mapping[str, np.ndarray]
"""Results by name, a row for each query."""


class JournalError(HardrankError):
    """A journal that belongs to another evaluation, or cannot be read."""


class Journal:
    """A folder with a file for each finished (attack, block of queries), each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, settings: Mapping[str, Any], probe: np.ndarray) -> None:
        """Begin, or go on with an evaluation of the same `settings` (JSON) and gallery.

        `probe` is a sample of the gallery's embeddings, which must agree to 1e-3. Raises `JournalError`
        otherwise.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path, text = self._folder / "settings.json", json.dumps(settings, sort_keys=True, indent=1)
        if not path.exists():
            _write(self._folder / "gallery.npy", lambda file: np.save(file, probe))
            _write(path, lambda file: file.write(text.encode()))
            return
        known = json.loads(path.read_text(encoding="utf-8"))
        if known != json.loads(text):
            asked = json.loads(text)
            differing = [k for k in {*known, *asked} if known.get(k) != asked.get(k)]
            raise JournalError(
                f"the journal {self._folder} belongs to another evaluation: "
                f"{', '.join(sorted(differing))} differ; name another folder, or remove it"
            )
        before = np.load(self._folder / "gallery.npy")
        if before.shape != probe.shape or not np.allclose(before, probe, atol=1e-3):
            raise JournalError(
                f"the journal {self._folder} was begun with other gallery embeddings; name another folder, or remove it"
            )

    def load(self, attack: str) -> Iterator[tuple[np.ndarray, Columns]]:
        """Yield what is recorded of `attack`: blocks of query rows (n,) and their columns.

        Raises `JournalError` for a damaged file.
        """
        for path in sorted(self._folder.glob(f"{_slug(attack)}.*.npz")):
            try:
                with np.load(path) as block:
                    columns = {name: block[name] for name in block.files}
                rows = columns.pop("rows")
            except (OSError, ValueError, KeyError, BadZipFile) as error:
                raise JournalError(
                    f"the journal's file {path} is damaged; remove it, and its part runs anew"
                ) from error
            yield rows, columns

    def record(self, attack: str, rows: np.ndarray, columns: Columns) -> None:
        """Keep the results of `rows` (n,) of queries, each of `columns` with n rows."""
        name = f"{_slug(attack)}.{int(rows[0])}-{zlib.crc32(rows.tobytes()):08x}.npz"
        arrays: dict[str, Any] = {"rows": rows, **columns}
        _write(self._folder / name, lambda file: np.savez(file, **arrays))


def _slug(attack: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", lambda match: {"+": "_up", "-": "_down"}.get(match[0], "_"), attack)


def _write(path: Path, write: Any) -> None:
    """Write through a temporary file, so that a killed writer leaves no half of one."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
