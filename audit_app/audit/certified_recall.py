"""Certified Recall@1 of a model by randomized smoothing, for some images: what no L2 perturbation can take away.

It is a statement about a smoothed version of the model, which embeds many noisy copies of each query, and not about
the model as it is served. See `hardrank.trainer.evaluation.certificates`.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from hardrank.audit_app.audit.intervals import mean_intervals
from hardrank.audit_app.audit.options import CertificateOptions
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.results.certificate_entries import CertificateEntry, CertifiedPointEntry
from hardrank.trainer.evaluation.blocks import cancelled
from hardrank.trainer.evaluation.certificates import certify_image
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.metric.distances import recall_at_1

MULTIPLES: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Radii that are reported, in σ."""
_PROBED: Final = 16


def measure_certificates(
    embedded: EmbeddedGallery,
    rows: torch.Tensor,
    options: CertificateOptions,
    *,
    seed: int,
    batch: int,
    resamples: int,
    journal: Callable[[str], Journal],
    report: Callable[[int], None],
    cancel: Callable[[], bool],
) -> tuple[CertificateEntry, ...]:
    """Certify Recall@1 of some of the gallery's images with each σ.

    Args:
        embedded: The gallery and the model.
        rows: (n,) rows; those of images alone in their class are left out.
        options: σ, number of samples, confidence.
        seed: Of the noise and the bootstrap.
        batch: Noisy copies embedded at a time.
        resamples: Of the bootstrap.
        journal: Returns the journal of a name; it keeps finished images.
        report: Called with the number of finished pairs of image and σ.
        cancel: Checked before each image.

    Returns:
        The result of each σ; none if all images are alone in their class.

    Raises:
        CancelledError: `cancel` returned True.
    """
    labels = embedded.gallery.labels
    rows = rows[torch.from_numpy(np.bincount(labels)[labels[rows.cpu().numpy()]] > 1)]
    if not len(rows):
        return ()
    found = []
    for number, sigma in enumerate(options.sigmas):
        kept = journal(f"certificates {sigma:g} {options.samples} {options.alpha:g}")
        kept.open({"sigma": sigma, "samples": options.samples}, embedded.embeddings[:_PROBED].cpu().numpy())
        done = {row: columns["radii"] for row, columns in kept.load_rows("radii").items()}
        for i, row in enumerate(rows.tolist(), start=1):
            if cancel():
                raise cancelled()
            if row not in done:
                certified = certify_image(
                    embedded.subject.judge,
                    embedded.images(torch.tensor([row]))[0],
                    embedded.tensors,
                    row,
                    options.smoothing(sigma),
                    seed=seed,
                    batch=batch,
                )
                done[row] = np.array([certified.vote, certified.embedding])
                kept.record("radii", np.array([row]), {"radii": done[row][None]})
            report(number * len(rows) + i)
        radii = np.stack([done[row] for row in rows.tolist()])
        found.append(_summarize(embedded, rows, radii, sigma, options, seed=seed, resamples=resamples))
    return tuple(found)


def _summarize(
    embedded: EmbeddedGallery,
    rows: torch.Tensor,
    radii: np.ndarray,
    sigma: float,
    options: CertificateOptions,
    *,
    seed: int,
    resamples: int,
) -> CertificateEntry:
    """Summarize the `radii` (n,2) of the vote and of the mean embedding."""
    own = rows.to(embedded.embeddings.device)
    benign = recall_at_1(embedded.embeddings[own], embedded.embeddings, embedded.labels, own, embedded.labels[own])
    [recall] = mean_intervals(benign.double().cpu().numpy()[:, None], seed=seed, resamples=resamples)
    points = []
    for multiple in MULTIPLES:
        # At a radius of 0, too, only certified images count: those whose radius is positive.
        reached = (radii >= multiple * sigma) & (radii > 0)
        vote, embedding = mean_intervals(reached.astype(np.float64), seed=seed, resamples=resamples)
        points.append(CertifiedPointEntry(radius=multiple * sigma, vote=vote, embedding=embedding))
    return CertificateEntry(
        sigma=sigma,
        samples=options.samples,
        alpha=options.alpha,
        n=len(rows),
        recall_at_1=recall,
        points=points,
    )
