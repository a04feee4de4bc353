"""What the benchmarks of a trained model share: its options, its configuration, its test images, results by bundle."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.command import ROOT, BenchmarkOptions, environment
from hardrank.models.bundle import load_card
from hardrank.models.preprocessing import Preprocessing
from hardrank.trainer.config import Config
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import DataOptions
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.recipe import parse_config


@dataclass(frozen=True, kw_only=True)
class BundleOptions(BenchmarkOptions):
    """Options of a benchmark of one bundle."""

    bundle: Path = ROOT / "models/zoo/demo-robust"
    """The trained model."""
    data_root: Path | None = None
    """The images, where they have moved since training."""

    def write_bundle(self, name: str, measured: Any, **content: Any) -> None:
        """Write `content` and the results of all bundles, in which `measured` replaces those of this bundle."""
        known = self.known(name).get("bundles", {})
        result = {
            "command": f"python benchmarks/{name}.py --bundle models/zoo/NAME",
            **content,
            "bundles": {**known, self.bundle.name: measured},
            **environment(),
        }
        self.write(name, result)


def bundle_config(bundle: Path, data_root: Path | None = None) -> Config:
    """Return the configuration of a bundle's training; `data_root` replaces the folder of the images."""
    config = parse_config(load_card(bundle).config, source=str(bundle))
    return config if data_root is None else replace(config, data=replace(config.data, root=data_root))


def load_test_images(data: DataOptions, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return the pixels of the test images of a data set, uint8 (N,3,H,W), and their labels (N,)."""
    test = load_dataset(data).test
    pixels = ImageStore(test, preprocessing).center(np.arange(len(test)), preprocessing.crop)
    return torch.from_numpy(pixels), torch.from_numpy(test.labels)
