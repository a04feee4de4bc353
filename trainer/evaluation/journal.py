"""A journal of finished blocks, so that a long evaluation that was interrupted continues where it stopped."""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np

from hardrank.models.errors import HardrankError
from hardrank.models.files import atomic_file, write_json

Columns = Mapping[str, np.ndarray]
"""Results by name, a row for each query."""

_SETTINGS: Final = "settings.json"
_GALLERY: Final = "gallery.npy"


class JournalError(HardrankError):
    """A journal that belongs to another evaluation, or cannot be read."""


class Journal:
    """A folder with one file for each finished (attack, block of queries)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, settings: Mapping[str, Any], probe: np.ndarray) -> None:
        """Begin a journal, or continue one.

        Args:
            settings: what the results depend on, as JSON values.
            probe: a sample of the gallery's embeddings.

        Raises:
            JournalError: if the folder holds a journal of other settings, or of other embeddings (beyond 1e-3).
        """
        path = self._folder / _SETTINGS
        if not path.exists():
            with atomic_file(self._folder / _GALLERY) as file:
                np.save(file, probe)
            write_json(path, settings)
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            before = np.load(self._folder / _GALLERY)
        except (OSError, ValueError) as error:
            raise JournalError(
                f"the journal {self._folder} is damaged ({error}); use another folder, or delete it"
            ) from error
        current = json.loads(json.dumps(settings))
        if known != current:
            differing = sorted(key for key in {*known, *current} if known.get(key) != current.get(key))
            raise JournalError(
                f"the journal {self._folder} belongs to another evaluation: {', '.join(differing)} differ; "
                "use another folder, or delete it"
            )
        if before.shape != probe.shape or not np.allclose(before, probe, atol=1e-3):
            raise JournalError(
                f"the journal {self._folder} was made with other gallery embeddings; use another folder, or delete it"
            )

    def load(self, attack: str) -> Iterator[tuple[np.ndarray, Columns]]:
        """Yield the recorded blocks of `attack`: query rows (n,) and their columns.

        Raises:
            JournalError: for a damaged file.
        """
        for path in sorted(self._folder.glob(f"{_slug(attack)}.*.npz")):
            try:
                with np.load(path) as block:
                    columns = {name: block[name] for name in block.files}
                rows = columns.pop("rows")
            except (OSError, ValueError, KeyError, BadZipFile) as error:
                raise JournalError(
                    f"the journal's file {path} is damaged; delete it, and its block is measured again"
                ) from error
            yield rows, columns

    def load_rows(self, attack: str) -> dict[int, dict[str, np.ndarray]]:
        """Return the recorded columns of `attack` by query row; raises `JournalError` for a damaged file."""
        return {
            int(row): {name: column[i] for name, column in columns.items()}
            for rows, columns in self.load(attack)
            for i, row in enumerate(rows)
        }

    def record(self, attack: str, rows: np.ndarray, columns: Columns) -> None:
        """Store the results of the query rows `rows` (n,), each of `columns` with n rows."""
        name = f"{_slug(attack)}.{int(rows[0])}-{zlib.crc32(rows.tobytes()):08x}.npz"
        arrays: dict[str, Any] = {"rows": rows, **columns}
        with atomic_file(self._folder / name) as file:
            np.savez(file, **arrays)


def _slug(attack: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", lambda match: {"+": "_up", "-": "_down"}.get(match[0], "_"), attack)
