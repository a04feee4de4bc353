"""The audit of one model: scorecards of it, with a journal and progress reports, and single attacks repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from hardrank.audit_app.audit.estimate import AuditPart
from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.progress import AuditProgress
from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.trainer.attacks.attack import victims_in
from hardrank.trainer.attacks.runner import AttackResult, Method, run_attack
from hardrank.trainer.evaluation.blocks import EvaluationPhase, EvaluationProgress
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import RobustnessOptions, measure_robustness
from hardrank.trainer.evaluation.scorecard import Scorecard

_CHECK_PHASES: Final = (EvaluationPhase.SANITY, EvaluationPhase.OTHER_SEED)


@dataclass(frozen=True)
class ModelAudit:
    """The audit of one model."""

    embedded: EmbeddedGallery
    method: Method | None
    options: AuditOptions
    journal: Path
    progress: AuditProgress
    cancel: Callable[[], bool]

    def report(self, part: AuditPart, stage: str, done: int, total: int, share: float | None = None) -> None:
        """Report the progress of a stage; see `AuditProgress.report`."""
        self.progress.report(self.embedded.subject.name, part, stage, done, total, share)

    def score(
        self,
        rows: torch.Tensor,
        robustness: RobustnessOptions,
        method: Method | None,
        *,
        name: str,
        stage: str,
        part: AuditPart = AuditPart.ATTACKS,
        place: tuple[int, int] = (0, 1),
    ) -> Scorecard:
        """Attack the gallery rows `rows` (n,); what is finished is kept under `name`.

        `place` is the number of this scorecard among those of the part, and how many there are.
        """
        subject, options = self.embedded.subject, self.options
        budget = method.queries if isinstance(method, Search) else None

        def show(progress: EvaluationProgress) -> None:
            done = progress.done(options.batch, robustness.steps, budget=budget)
            share = done / progress.queries
            if progress.phase is EvaluationPhase.ATTACKS:
                self.report(part, stage, round(done), progress.queries, (place[0] + share) / place[1])
            elif progress.phase is EvaluationPhase.STRONG:
                self.report(AuditPart.STRONG, f"stronger {stage}", round(done), progress.queries, share)
            else:
                share = _CHECK_PHASES.index(progress.phase) + share
                self.report(
                    AuditPart.CHECKS,
                    f"{progress.phase} on {subject.name}",
                    round(done),
                    progress.queries,
                    share / len(_CHECK_PHASES),
                )

        card = measure_robustness(
            subject.judge if method is not None else subject.gradients,
            self.embedded.images,
            self.embedded.embeddings,
            self.embedded.labels,
            rows.to(subject.device),
            options=robustness,
            attacks=options.build(),
            seed=options.seed,
            batch=options.batch,
            judge=subject.judge,
            method=method,
            progress=show,
            cancel=self.cancel,
            resume=Journal(self.journal / name),
        )
        self.report(part, stage, len(rows), len(rows), (place[0] + 1) / place[1])
        return card

    def repeat(self, name: str, rows: torch.Tensor, targets: torch.Tensor) -> AttackResult:
        """Run the attack `name` again on the gallery rows `rows` (n,) with its `targets` (n,T).

        Random draws depend only on seed and image, so it finds the same images as for the scorecard, up to rounding.
        """
        subject, tensors = self.embedded.subject, self.embedded.tensors
        return (self.method or run_attack)(
            self.options.build()[name],
            subject.judge if self.method is not None else subject.gradients,
            self.embedded.images(rows),
            victims_in(tensors, rows),
            tensors,
            self.options.robustness,
            seed=self.options.seed,
            targets=targets,
            judge=subject.judge,
        )
