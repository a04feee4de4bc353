"""Runs the command as a user does, in a folder with images and a recipe."""

import io
import os
import subprocess
import sys
from contextlib import AbstractContextManager, chdir, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from hardrank.models.bundle import ONNX, WEIGHTS
from hardrank.models.embedder import Embedder
from hardrank.trainer.export import Parity, save_weights
from hardrank.trainer.run import main
from tests.trainer.tiny import write_images, write_recipe

ROOT = Path(__file__).resolve().parents[2]
WIDE = {"COLUMNS": "160"}


class Place:
    """A folder with images and a recipe, for the run and its bundles."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        if not (folder / "images").exists():
            write_images(folder / "images")
        self.recipe = write_recipe(folder / "tiny.yaml", folder / "images", **changes)
        self.zoo, self.runs = folder / "zoo", folder / "runs"

    def command(self, *options: str) -> list[str]:
        return [
            sys.executable,
            str(ROOT / "trainer" / "run.py"),
            str(self.recipe),
            "--zoo",
            str(self.zoo),
            "--runs",
            str(self.runs),
            "--device",
            "cpu",
            "--threads",
            "1",
            "--checkpoint-every",
            "2",
            *(() if "--preflight" in options else ("--no-preflight",)),  # an export takes longer than a tiny run
            *options,
        ]

    def run(self, *options: str, expect: int = 0, onnx: bool = False) -> str:
        """Run the command in this process, since starting Python and torch takes longer than a tiny run.

        `onnx` also exports the bundles to ONNX, which takes seconds for each; without it model.onnx is a placeholder.
        """
        printed = io.StringIO()
        with (
            nullcontext() if onnx else without_onnx(),
            chdir(self.folder),
            patch.dict(os.environ, WIDE),
            redirect_stdout(printed),
            redirect_stderr(printed),
        ):
            status = _status(self.command(*options)[2:])
        assert status == expect, printed.getvalue()
        return printed.getvalue()

    def run_afresh(self, *options: str) -> str:
        """Run the command in a process of its own."""
        done = subprocess.run(
            self.command(*options), cwd=self.folder, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def weights(self, kind: str) -> dict[str, torch.Tensor]:
        return load_file(self.zoo / f"tiny-{kind}" / "weights.safetensors")


def without_onnx() -> AbstractContextManager[object]:
    """Let bundles of this process have the trained weights, and a placeholder for model.onnx."""

    def export(embedder: Embedder, folder: Path, *_: object) -> Parity:
        (folder / ONNX).write_bytes(b"placeholder")
        save_weights(embedder, folder / WEIGHTS)
        return Parity(largest_difference=0.0, recall_at_1_torch=1.0, recall_at_1_onnx=1.0, same_top10=1.0)

    return patch("hardrank.trainer.main_job.export", export)


def environment() -> dict[str, str]:
    return os.environ | WIDE


def _status(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:  # by the parser of the options
        return int(ended.code or 0)
