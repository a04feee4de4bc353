"""Repeats an attack of a scorecard on some of its images, to see the images that it found."""

import torch

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.trainer.attacks.attack import victims_in
from hardrank.trainer.attacks.runner import AttackResult, Method, run_attack


def repeat_attack(
    embedded: EmbeddedGallery,
    name: str,
    rows: torch.Tensor,
    targets: torch.Tensor,
    options: AuditOptions,
    method: Method | None,
) -> AttackResult:
    """Run the attack `name` again on the gallery rows `rows` (n,) with its `targets` (n,T).

    Random draws depend only on seed and image, so it finds the same images up to rounding.
    """
    subject = embedded.subject
    return (method or run_attack)(
        options.build()[name],
        subject.judge if method is not None else subject.gradients,
        embedded.images(rows),
        victims_in(embedded.tensors, rows),
        embedded.tensors,
        options.robustness,
        seed=options.seed,
        targets=targets,
        judge=subject.judge,
    )
