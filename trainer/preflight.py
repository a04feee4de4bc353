"""Checks before the first update, which find early what would otherwise show after hours.

The pretrained weights are available, the network folds, every stage takes a step on a few images, the export passes its
gate, and disk and memory suffice. The steps are timed, which gives an estimate of the whole run.
"""

import copy
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from hardrank.models.embedder import Embedder
from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.progress import StageProgress, duration_text
from hardrank.trainer.config import BENIGN, ROBUST, RobustStart
from hardrank.trainer.evaluation.scorecard import ERS_KEYS
from hardrank.trainer.export import export
from hardrank.trainer.job_steps import (
    Job,
    build_start,
    loop_options,
    start_options,
    triplet_stage,
    warmup_loop_options,
    warmup_stage,
)
from hardrank.trainer.runtime.run_folder import PREFLIGHT
from hardrank.trainer.training.loop import LoopOptions, step_generator
from hardrank.trainer.training.precision import network_for_update, set_training_mode
from hardrank.trainer.training.pretrained_start import pretrained_features
from hardrank.trainer.training.stage import StepContext, TrainingStage, TrainingState

_IMAGES: Final = 8
"""Images of a try; a whole batch takes as much longer as it is larger."""
_TIMED: Final = 5
"""Tries that are timed, of which the shortest counts: other programs only make them longer."""
_TIMED_S: Final = 10.0
"""Seconds after which no further try begins."""
_EXPORTED: Final = 16
_FOLDING_LIMIT: Final = 1e-3
_COPIES_IN_CHECKPOINT: Final = 4
"""Weights, two moments of Adam, and the moving average."""
_COPIES_IN_MEMORY: Final = 8
"""Those of a checkpoint, gradients, the folded copies of training and of the evaluation, and a reference."""
_OVERHEAD: Final = 1.5
"""Memory of an update by that of the activations that it keeps: gradients of activations, and work space."""


class PreflightCheck(StrEnum):
    """What a check before the first update found wanting."""

    FOLDING = "folding"
    TRAINING = "training"
    EXPORT = "export"
    DISK = "disk"
    MEMORY = "memory"


class PreflightError(HardrankError):
    """A run that would fail later. Absent weights have an error of their own, `WeightsError`."""

    def __init__(self, check: PreflightCheck, message: str) -> None:
        super().__init__(message)
        self.check = check


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The result of the checks."""

    seconds_by_stage: Mapping[str, float]
    """Estimated seconds of each stage and of the attacks on each model."""
    disk_bytes: int
    """Estimated size of checkpoints and bundles."""
    memory_bytes: int
    """Estimated memory of the largest update, beside the images."""
    seconds: float
    """Duration of the checks."""

    @property
    def total_seconds(self) -> float:
        """Estimated seconds of the whole run."""
        return sum(self.seconds_by_stage.values())

    def describe(self) -> str:
        """Return the estimate in words."""
        stages = ", ".join(f"{name} {duration_text(seconds)}" for name, seconds in self.seconds_by_stage.items())
        return f"The run will take about {duration_text(self.total_seconds)} ({stages})."


@dataclass(frozen=True)
class StageTry:
    """The cost of an update."""

    seconds: float
    """Of a whole update, estimated."""
    saved_bytes: int
    """Activations that a whole update keeps, estimated."""


def check_before_training(job: Job, zoo: Path) -> Preflight:
    """Run all checks, in the first process; the others wait for its result.

    Args:
        job: The job, whose images have been read.
        zoo: Folder of the bundles.

    Returns:
        The estimates, which are also in `preflight.json` of the run's folder.

    Raises:
        WeightsError: The pretrained weights are not available, or do not fit.
        PreflightError: A check fails.
    """
    found: Preflight | HardrankError | None = None
    if job.processes.is_first:
        try:
            found = _check(job, zoo)
        except HardrankError as error:
            found = error
    (found, *_) = job.processes.gather(found)
    if isinstance(found, HardrankError):
        raise found
    assert found is not None
    return found


def _check(job: Job, zoo: Path) -> Preflight:
    began = time.monotonic()
    job.report(StageProgress(stage="checks", done=0, total=1))
    torch.manual_seed(job.config.seed)
    embedder = build_start(job.config)
    _check_folding(embedder, job)
    seconds, tries = dict[str, float](), list[StageTry]()  # in the order of the run
    if start_options(job).keep_targets:
        seconds["features"] = _feature_seconds(embedder, job)
    for kind in job.config.kinds:
        for name, stage, options in _stages(job, kind):
            if stage.iterations and name not in seconds:
                tries.append(try_stage(stage, options, embedder, job))
                seconds[name] = stage.iterations * tries[-1].seconds
        seconds[f"attacks on {kind}"] = attack_seconds(embedder, job)
    exported = _check_export(embedder, job)
    weights = sum(p.numel() * p.element_size() for p in embedder.parameters())
    result = Preflight(
        seconds_by_stage={name: round(value, 1) for name, value in seconds.items()},
        disk_bytes=len(tries) * _COPIES_IN_CHECKPOINT * weights + len(job.config.kinds) * exported,
        memory_bytes=int(_OVERHEAD * max((one.saved_bytes for one in tries), default=0)) + _COPIES_IN_MEMORY * weights,
        seconds=round(time.monotonic() - began, 1),
    )
    _check_disk(result.disk_bytes, (job.run.folder, zoo))
    _check_memory(result.memory_bytes, job)
    content = {**asdict(result), "total_seconds": round(result.total_seconds, 1)}
    write_json(job.run.folder / PREFLIGHT, content)
    job.report(StageProgress(stage="checks", done=1, total=1, note=result.describe()))
    return result


def _stages(job: Job, kind: str) -> list[tuple[str, TrainingStage, LoopOptions]]:
    """Return the stages that train the benign or the robust model, with their options."""
    config, found = job.config, list[tuple[str, TrainingStage, LoopOptions]]()
    model = config.benign if kind == BENIGN else config.robust
    starts_anew = kind == BENIGN or config.robust_start is RobustStart.INITIAL
    if starts_anew and config.warms_up(model):
        warmup = warmup_stage(config, job.images, model)
        found.append((warmup.name, warmup, warmup_loop_options(job)))
    before = config.robust_stages if kind == ROBUST else ()
    named = [(f"{kind}-{number}", options) for number, options in enumerate(before, start=1)]
    for name, options in [*named, (kind, model)]:
        stage = triplet_stage(job.images, name, options)
        found.append((name, stage, loop_options(job, stage, options)))
    return found


def _check_folding(embedder: Embedder, job: Job) -> None:
    images = job.images.source.images(np.arange(2), "checks", 0, 0)
    network = copy.deepcopy(embedder).eval()
    with torch.no_grad():
        difference = float((FoldedEmbedder(network)(images) - network(images)).abs().max())
    if not difference <= _FOLDING_LIMIT:
        raise PreflightError(
            PreflightCheck.FOLDING,
            f"the folded copy of {embedder.architecture.backbone}, on which attacks run, differs from it by "
            f"{difference:.1e} (limit {_FOLDING_LIMIT:g}); use another backbone",
        )


def try_stage(
    stage: TrainingStage, options: LoopOptions, embedder: Embedder, job: Job, *, images: int = _IMAGES
) -> StageTry:
    """Take an update of a stage on a few images several times, and measure the shortest after the first.

    Args:
        stage: The stage.
        options: The options with which the loop runs it.
        embedder: The network, which is not changed.
        job: The job.
        images: Number of images; the cost of a whole batch is scaled up from it.

    Raises:
        PreflightError: The batch holds no triplet, or a loss or gradient is not finite.
    """
    device = job.fabric.device
    network = copy.deepcopy(embedder).to(device).to(memory_format=torch.channels_last)
    frozen = FoldedEmbedder(network, dtype=torch.bfloat16 if options.low_precision else None)
    whole, labels = next(stage.batches(stage.iterations - 1, job.processes.rank, job.processes.size))
    for count in (images, len(whole)):  # a few images may hold no triplet
        part = whole[:count].to(device, memory_format=torch.channels_last)
        saved: dict[int, int] = {}

        def keep(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        times: list[float] = []
        while len(times) < 2 or (len(times) <= _TIMED and sum(times) < _TIMED_S):
            began = time.perf_counter()
            set_training_mode(network, freeze_batch_norm=options.freeze_batch_norm)
            context = StepContext(
                network=network_for_update(
                    network,
                    frozen,
                    low_precision=options.low_precision,
                    freeze_batch_norm=options.freeze_batch_norm,
                ),
                independent=options.freeze_batch_norm,
                frozen=frozen,
                reference=frozen if options.keep_reference else None,
                state=TrainingState(step=stage.iterations - 1),
                generator=step_generator(options.seed, stage.name, 0, 0),
            )
            network.zero_grad(set_to_none=True)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                result = stage.loss(part, labels[:count].to(device), context)
            if result is None:
                break
            result.loss.backward()
            _check_finite(stage.name, result.loss, network)
            times.append(time.perf_counter() - began)
        else:
            scale = len(whole) / len(part)
            return StageTry(min(times[1:]) * scale, int(sum(saved.values()) * scale))
    raise PreflightError(
        PreflightCheck.TRAINING,
        f"the first batch of {stage.name} holds no triplet; use more classes, or more pairs (--{stage.name}.pairs)",
    )


def _check_finite(stage: str, loss: Tensor, network: nn.Module) -> None:
    broken = "loss" if not loss.isfinite() else ""
    if not broken and not all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None):
        broken = "gradient of the weights"
    if broken:
        raise PreflightError(
            PreflightCheck.TRAINING,
            f"the {broken} of {stage} is not finite on the first images; check the weights the run starts from, or use "
            "--precision float32",
        )


def _feature_seconds(embedder: Embedder, job: Job) -> float:
    """Estimate the seconds in which the pretrained network embeds the training images for the anchor."""
    count, rows = len(job.images.dataset.train), np.arange(min(_IMAGES, len(job.images.dataset.train)))
    began = time.perf_counter()
    pretrained_features(embedder, start_options(job), rows)
    return (time.perf_counter() - began) / len(rows) * count


def attack_seconds(embedder: Embedder, job: Job) -> float:
    """Estimate the seconds of the attacks on a model, from a pass on a few images."""
    evaluation, device = job.config.evaluation, job.fabric.device
    frozen = FoldedEmbedder(copy.deepcopy(embedder).to(device))
    pixels = job.images.test(np.arange(min(_IMAGES, len(job.images.dataset.test)))).to(device)
    seconds = math.inf
    for _ in range(1 + _TIMED):
        began = time.perf_counter()
        x = pixels.clone().requires_grad_(True)
        torch.autograd.grad(frozen(x).square().sum() + frozen(x)[:, 0].sum(), x)
        seconds = min(seconds, (time.perf_counter() - began) / 2)
    count = len(job.images.dataset.test)
    attacked = count if evaluation.attacked is None else min(evaluation.attacked, count)
    return seconds / len(pixels) * attacked * evaluation.steps * len(ERS_KEYS) / job.processes.size


def _check_export(embedder: Embedder, job: Job) -> int:
    """Export the network through the gate; return the bytes of a bundle."""
    rows = np.arange(min(_EXPORTED, len(job.images.dataset.train)))
    images = job.images.source.images(rows, "checks", 0, 0)
    labels = torch.from_numpy(job.images.source.labels[rows])
    with tempfile.TemporaryDirectory() as folder:
        try:
            export(copy.deepcopy(embedder), Path(folder), lambda part: images[part], labels)
        except HardrankError as error:
            raise PreflightError(
                PreflightCheck.EXPORT, f"{error}. A trained model could not be exported either; use another backbone"
            ) from error
        return sum(path.stat().st_size for path in Path(folder).iterdir())


def _check_disk(needed: int, folders: tuple[Path, ...]) -> None:
    for folder in folders:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise PreflightError(
                PreflightCheck.DISK,
                f"{folder} has {_size(free)} left, but checkpoints and bundles take about {_size(needed)}; free some "
                "space, or choose other folders with --runs and --zoo",
            )


def _check_memory(needed: int, job: Job) -> None:
    available = available_memory(job.fabric.device)
    if available is not None and available < needed:
        raise PreflightError(
            PreflightCheck.MEMORY,
            f"an update takes about {_size(needed)} of memory, but {_size(available)} are available; lower "
            "--benign.pairs, --robust.pairs and --warmup.batch-size, or the image size",
        )


def available_memory(
    device: torch.device, *, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the bytes of memory that the device, or this machine and its container, have left; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    left = []
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        left.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit, used = ((cgroup / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        counts = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
        left.append(int(limit) - int(used) + int(counts["inactive_file"]))  # the file cache gives way
    except (OSError, ValueError, KeyError):  # no container, or "max"
        pass
    return min(left)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
