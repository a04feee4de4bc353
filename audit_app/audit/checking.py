"""Refuses an audit that cannot run, before any work is done."""

from collections.abc import Sequence

import torch

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.errors import AuditError, GalleryError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.subjects.subject import Subject, check_names_differ
from hardrank.trainer.attacks.attack import victims_in
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.evaluation.robustness import sample_queries
from hardrank.trainer.evaluation.threats import check_threats


def check_audit(galleries: Sequence[EmbeddedGallery], options: AuditOptions, surrogate: Subject | None) -> None:
    """Check an audit before any work is done, and before it occupies a folder.

    Raises:
        AuditError: The galleries differ, or the surrogate is missing.
        AttackError: The gallery does not allow an attack.
    """
    check_names_differ([embedded.subject for embedded in galleries])
    if any(embedded.gallery is not galleries[0].gallery for embedded in galleries):
        raise GalleryError("the models were given different galleries, so they cannot be compared; use embed_galleries")
    if (options.method is SearchMethod.TRANSFER) != (surrogate is not None):
        raise AuditError("a transfer attack needs a surrogate, a model with gradients; no other attack does")
    rows = sample_queries(len(galleries[0]), options.attacked, seed=options.seed)
    for embedded in galleries:
        _check_attacks(embedded, options, rows)
        check_threats(embedded.tensors, options.threats, options.robustness)


def _check_attacks(embedded: EmbeddedGallery, options: AuditOptions, rows: torch.Tensor) -> None:
    """Draw targets and compute one loss of each attack, so that attacks that the gallery does not allow fail early."""
    victims = victims_in(embedded.tensors, rows)
    for attack in options.build().values():
        try:
            targets = attack.draw(victims, embedded.tensors, seed=options.seed)
            attack.objective(victims[:1], embedded.tensors, targets[:1])
        except AttackError as error:
            raise AttackError(_with_advice(error, embedded)) from error


def _with_advice(error: AttackError, embedded: EmbeddedGallery) -> str:
    if embedded.gallery.labeled_classes > 1:
        return str(error)
    return (
        f"{error} (put each class's images into a folder of its own, or a column `label` in a CSV), or leave out the "
        "attacks that need classes: --attacks CA+ CA- QA+ QA- TMA ES GTT"
    )
