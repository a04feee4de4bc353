"""Measures the trained model of a job: retrieval metrics and robustness on its test images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.embedder import Embed, Embedder
from hardrank.models.files import atomic_path
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.progress import StageProgress
from hardrank.trainer.evaluation.blocks import EvaluationProgress
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.retrieval import RetrievalMetrics, evaluate
from hardrank.trainer.evaluation.robustness import SEED_CHECK, RobustnessOptions, measure_robustness, sample_queries
from hardrank.trainer.evaluation.scorecard import Scorecard
from hardrank.trainer.job_steps import Job
from hardrank.trainer.runtime.run_folder import EVALUATION

_BATCH: Final = 256
"""Images that one process embeds at a time."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Retrieval metrics on the unseen classes, and robustness against the attacks."""

    metrics: RetrievalMetrics
    robustness: Scorecard


def measure(job: Job, embedder: Embedder, kind: str, *, seed_check: int = SEED_CHECK) -> Measurement:
    """Measure a trained model, resumably.

    All processes call this, share the work and return the same.

    Args:
        job: The job; its configuration says how many images are attacked, and how.
        embedder: The trained model.
        kind: Name of the model in the run's folder.
        seed_check: Number of images that are attacked again with another seed.
    """
    evaluation = job.config.evaluation

    def report(progress: EvaluationProgress) -> None:
        done = progress.done(evaluation.batch * job.processes.size, evaluation.steps)
        job.report(StageProgress(stage=f"{progress.phase} on {kind}", done=round(done), total=progress.queries))

    measured = evaluate_embedder(
        job,
        embedder,
        attacked=evaluation.attacked,
        options=RobustnessOptions(
            epsilon=evaluation.epsilon,
            alpha=evaluation.alpha,
            steps=evaluation.steps,
            seed_check=seed_check,
            strong_images=evaluation.strong_images,
        ),
        progress=report,
        resume=Journal(job.run.folder / EVALUATION / kind),
    )
    if job.processes.is_first:
        with atomic_path(job.run.folder / EVALUATION / f"{kind}.csv") as unfinished:
            measured.robustness.per_image.write_csv(unfinished)
    return measured


def evaluate_embedder(
    job: Job,
    embedder: Embedder,
    *,
    attacked: int | None,
    options: RobustnessOptions,
    nmi: bool = True,
    progress: Callable[[EvaluationProgress], None] | None = None,
    resume: Journal | None = None,
) -> Measurement:
    """Measure an embedder on the job's test images; all processes call this, share the work and return the same.

    Args:
        job: The job.
        embedder: The model, which is put into evaluation mode.
        attacked: Number of test images to attack; None for all.
        options: Options of the attacks.
        nmi: Whether to measure NMI, which takes a k-means clustering.
        progress: Called after each step of an attack.
        resume: Journal of finished blocks.
    """
    config, device = job.config, job.fabric.device
    embedder.eval()
    exact = FoldedEmbedder(embedder)
    fast = FoldedEmbedder(embedder, dtype=torch.bfloat16) if job.low_precision else exact
    labels = torch.from_numpy(job.images.dataset.test.labels).to(device)
    embeddings = embed_test_images(job, exact)
    card = measure_robustness(
        fast,
        lambda rows: job.images.test(rows.cpu().numpy()).to(device, memory_format=torch.channels_last),
        embeddings,
        labels,
        sample_queries(len(labels), attacked, seed=config.seed).to(device),
        options=options,
        seed=config.seed,
        batch=config.evaluation.batch,
        judge=exact,
        progress=progress,
        resume=resume,
        processes=job.processes,
    )
    metrics = evaluate(embeddings, labels, seed=config.seed, nmi=nmi) if job.processes.is_first else None
    (known, *_) = job.processes.gather(metrics)
    assert known is not None
    return Measurement(metrics=known, robustness=card)


@torch.no_grad()
def embed_test_images(job: Job, embed: Embed) -> Tensor:
    """Return the embeddings (N,D) of all test images; each process embeds every n-th batch."""
    rows = np.arange(len(job.images.dataset.test))
    batches = [rows[begin : begin + _BATCH] for begin in range(0, len(rows), _BATCH)]
    embedded: list[Tensor] = []
    for begin in range(0, len(batches), job.processes.size):
        own = batches[begin:][job.processes.rank : job.processes.rank + 1]
        parts = [embed(job.images.test(part).to(job.fabric.device)).cpu() for part in own]
        embedded += [part for parts_of_one in job.processes.gather(parts) for part in parts_of_one]
    return torch.cat(embedded).to(job.fabric.device)
