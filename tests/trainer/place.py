"""A place where the command runs as a user runs it: a folder with images, a recipe, and what comes of them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.trainer.tiny import write_images, write_recipe

ROOT = Path(__file__).resolve().parents[2]


class Place:
    """A folder with images, a recipe, and the run and bundles that come of it."""

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
            "--checkpoint-every",
            "2",
            *options,
        ]

    def run(self, *options: str, expect: int = 0) -> str:
        done = subprocess.run(
            self.command(*options), cwd=self.folder, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def weights(self, kind: str) -> dict[str, torch.Tensor]:
        return load_file(self.zoo / f"tiny-{kind}" / "weights.safetensors")


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
