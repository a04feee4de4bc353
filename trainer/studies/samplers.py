"""Mean hardness of the triplets of each sampler, at the start of a study's training."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import to_unit
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.data.batches import spc2_batches
from hardrank.trainer.metric.losses import hardness
from hardrank.trainer.metric.samplers import Sampler, draw_triplets
from hardrank.trainer.studies.trial import StudyRun, initial_weights, open_trial
from hardrank.trainer.studies.trial_list import Trial


def measure_samplers(study_run: StudyRun, trial: Trial, report: OnProgress) -> dict[str, dict[str, float]]:
    """Measure the hardness H(A,P,N) of each sampler's triplets on the initial weights of `trial`.

    As in the paper's measurement, batches are SPC-2 of the training images; here without augmentation.
    """
    job = open_trial(study_run, trial, report)
    embedder = FoldedEmbedder(initial_weights(study_run, trial, job).eval())
    source = job.images.source
    rows = np.arange(len(source.labels))
    with torch.no_grad():
        parts = [
            embedder(torch.from_numpy(to_unit(source.store.center(part, source.crop))).to(job.fabric.device)).cpu()
            for part in np.array_split(rows, max(1, len(rows) // 256))
        ]
    return hardness_by_sampler(
        torch.cat(parts),
        torch.from_numpy(source.labels),
        pairs=trial.options.pairs,
        batches=study_run.study.sampler_batches,
        seed=trial.seed,
        report=lambda done, total: report(StageProgress(stage="samplers", done=done, total=total)),
    )


def hardness_by_sampler(
    embeddings: Tensor,
    labels: Tensor,
    *,
    pairs: int,
    batches: int,
    seed: int,
    report: Callable[[int, int], None],
) -> dict[str, dict[str, float]]:
    """Return the mean and the variance over batches of the mean hardness of triplets, by sampler.

    Args:
        embeddings: (N,D) on the unit sphere.
        labels: (N,) classes.
        pairs: Pairs in an SPC-2 batch.
        batches: Number of batches.
        seed: Decides batches and triplets.
        report: Called with the batches done and their number.
    """
    generator = torch.Generator().manual_seed(seed)
    means: dict[str, list[float]] = {sampler.value: [] for sampler in Sampler}
    epoch, done = 0, 0
    while done < batches:
        for chosen in spc2_batches(labels.numpy(), pairs=pairs, epoch=epoch, seed=seed)[: batches - done]:
            batch, classes = embeddings[chosen], labels[chosen]
            for sampler in Sampler:
                triplets = draw_triplets(sampler, batch, classes, generator=generator)
                means[sampler.value].append(float(hardness(*triplets.gather(batch)).mean()))
            done += 1
            report(done, batches)
        epoch += 1
    return {
        name: {"mean": float(np.mean(values)), "variance": float(np.var(values)), "batches": len(values)}
        for name, values in means.items()
    }
