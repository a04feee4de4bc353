"""Other threat models in an audit: universal perturbations, patches and hubs, apart from the ten results."""

import torch

from hardrank.audit_app.audit.estimate import AuditPart
from hardrank.audit_app.audit.model_audit import ModelAudit
from hardrank.trainer.evaluation.blocks import EvaluationPhase, EvaluationProgress
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.threats import ThreatResult, measure_threats


def measure_model_threats(part: ModelAudit, rows: torch.Tensor) -> tuple[ThreatResult, ...]:
    """Measure the requested threat models on an even sample of the gallery rows `rows` (n,).

    They follow gradients, so a model that is attacked without them has none.
    """
    options, embedded = part.options, part.embedded
    if part.method is not None or not options.threats.threats:
        return ()
    subject, names = embedded.subject, options.threats.threats

    def show(name: str, progress: EvaluationProgress) -> None:
        done = progress.done(options.batch, options.robustness.steps)
        learning = progress.phase is EvaluationPhase.LEARNING
        share = progress.queries_done / progress.queries / 2 if learning else 0.5 + done / progress.queries / 2
        stage = f"{'learning a' if learning else ''} {name} on {subject.name}".strip()
        part.report(
            AuditPart.THREATS, stage, round(done), progress.queries, (names.index(name) + min(1.0, share)) / len(names)
        )

    return measure_threats(
        subject.gradients,
        embedded.images,
        embedded.embeddings,
        embedded.labels,
        rows.to(subject.device),
        threats=options.threats,
        options=options.robustness,
        seed=options.seed,
        batch=options.batch,
        judge=subject.judge,
        progress=show,
        cancel=part.cancel,
        resume=lambda name: Journal(part.journal / f"threat {name}"),
    )
