"""A scorecard measured by two processes equals the one of a single process, also after an interruption."""

from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import RobustnessOptions, measure_robustness
from hardrank.trainer.evaluation.scorecard import Scorecard
from hardrank.trainer.runtime.processes import SINGLE_PROCESS, Processes
from tests.trainer.together import run_together

OPTIONS = RobustnessOptions(steps=2, bootstrap=20, seed_check=4, sanity_images=4)
QUERIES = 11
"""In blocks of 3: the last round has less blocks than processes, and the last block is smaller."""


def measure(processes: Processes, folder: Path) -> Scorecard:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 16))
    network.double().requires_grad_(False)
    images = torch.rand(40, 3, 8, 8, dtype=torch.float64)

    def embed(x: Tensor) -> Tensor:
        return F.normalize(network(x - 0.5), dim=1)

    return measure_robustness(
        embed,
        lambda rows: images[rows],
        embed(images),
        torch.arange(40) % 8,
        torch.arange(QUERIES),
        options=OPTIONS,
        batch=3,
        resume=Journal(folder / "journal"),
        processes=processes,
    )


def measure_twice(fabric: L.Fabric, folder: Path) -> None:
    """Measure, delete a part of the journal, and measure again."""
    processes = Processes.of(fabric)
    results = [measure(processes, folder)]
    processes.wait()
    if processes.is_first:
        for path in sorted((folder / "journal").glob("*.npz"))[::3]:
            path.unlink()
    processes.wait()
    results.append(measure(processes, folder))
    torch.save(results, folder / f"{processes.rank}.pt")


def test_two_processes_measure_what_one_measures(tmp_path: Path) -> None:
    expected = measure(SINGLE_PROCESS, tmp_path / "single")
    (tmp_path / "two").mkdir()
    run_together(measure_twice, tmp_path / "two")
    found = [card for rank in (0, 1) for card in torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=False)]
    assert len(found) == 4
    for card in found:
        assert card.to_dict() == expected.to_dict()
        for name, column in expected.per_image.columns.items():
            np.testing.assert_array_equal(card.per_image.columns[name], column, err_msg=name)
    names = {path.name for path in (tmp_path / "single" / "journal").glob("*.npz")}
    assert {path.name for path in (tmp_path / "two" / "journal").glob("*.npz")} == names
