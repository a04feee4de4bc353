"""Training metrics as CSV and TensorBoard files that stay correct when a run is resumed."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardrank.models.files import atomic_path


class MetricsLog:
    """Log of a training stage: FOLDER/STAGE.csv, and TensorBoard events beside it."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._csv = folder / f"{stage}.csv"
        self._events = folder / "tensorboard" / stage
        self._rows: list[dict[str, Any]] = []
        self._board: Any = None

    def resume(self, step: int) -> None:
        """Discard what was logged after `step`, where the run continues."""
        from torch.utils.tensorboard import SummaryWriter

        if self._csv.exists():
            with self._csv.open(encoding="utf-8", newline="") as stream:
                self._rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= step]
        self._board = SummaryWriter(str(self._events), purge_step=step + 1)

    def write(self, step: int, measures: Mapping[str, float]) -> None:
        """Add a line. The file is replaced atomically, so it is complete at any time."""
        self._rows.append({"step": step, **{name: f"{value:.6g}" for name, value in measures.items()}})
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        with (
            atomic_path(self._csv) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(self._rows)
        for name, value in measures.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def read_last(self) -> dict[str, float]:
        """Return the last line on disk, without empty values; empty if there is no log."""
        if not self._csv.exists():
            return {}
        with self._csv.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return {name: float(value) for name, value in rows[-1].items() if value} if rows else {}
