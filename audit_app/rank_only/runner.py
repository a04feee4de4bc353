"""Attacks many images block by block, and keeps what is finished."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hardrank.audit_app.blackbox.ranks import RankSearch
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.embedded import ignore_progress
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.rank_only.block import attack_block
from hardrank.audit_app.rank_only.figures import RANK_FIGURES
from hardrank.audit_app.rank_only.result import ImageEntry, RankOnlyResult, earlier_result, summarize
from hardrank.audit_app.rank_only.systems import SearchSystem
from hardrank.models.files import write_json
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.evaluation.robustness import sample_queries

_STAGE = "queries"
_SHOWN_IDS = 20


@dataclass(frozen=True, kw_only=True)
class RankOnlyOptions:
    """Options of a run. Raises `AuditError` for values out of range."""

    attack: str = "QA+"
    """QA+, QA-, TMA, ES or ORDER."""
    targets: int = 1
    """Number of targets of an image; ORDER: of items to order."""
    search: RankSearch = field(default_factory=RankSearch)
    epsilon: float = 8 / 255
    """L∞ budget for pixels in [0,1]."""
    images: int | None = 100
    """Number of attacked images, a seeded sample; None for all."""
    side: int = 224
    """Side in pixels of the square files that are sent."""
    seed: int = 0
    """Of the sample, the targets and the search."""
    block: int = 25
    """Images attacked at a time. Results depend on it only by rounding."""

    def __post_init__(self) -> None:
        if self.attack not in RANK_FIGURES:
            raise AuditError(f"{self.attack!r} cannot be measured with ids alone; use {', '.join(RANK_FIGURES)}")
        least = 2 if self.attack == "ORDER" else 1
        if not 0 <= self.epsilon <= 1 or self.targets < least or self.seed < 0:
            raise AuditError(
                f"epsilon {self.epsilon:g}, targets {self.targets}, seed {self.seed}: give epsilon from 0 to 1, "
                f"{least} or more targets, and a seed of 0 or more"
            )
        if min(self.side, self.block, self.images or 1) < 1:
            raise AuditError(f"side {self.side}, block {self.block}, images {self.images}: give 1 or more")

    def settings(self) -> dict[str, Any]:
        """Return what determines the figures, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "block"}


def run_rank_only(
    system: SearchSystem,
    gallery: ImageGallery,
    options: RankOnlyOptions,
    out: Path,
    *,
    command: str,
    on_progress: OnProgress = ignore_progress,
) -> RankOnlyResult:
    """Attack a sample of the gallery's images, and write the result after each block.

    Args:
        system: The search under attack.
        gallery: Images with the ids that the system returns.
        options: Goal, budgets and sample.
        out: The JSON file. If it exists, the run continues.
        command: As typed, for the file.
        on_progress: Called with the progress in queries.

    Raises:
        AuditError: The file belongs to another run, or options do not fit.
        SearchApiError: The API cannot be attacked.
    """
    description = system.describe()
    settings = {**options.settings(), "gallery": gallery.digest(), "results_measured": system.most_results}
    earlier = earlier_result(out, description, settings)
    images = () if earlier is None else earlier.images
    unknown = set() if earlier is None else set(earlier.unknown_ids)
    known = {one.id for one in images}
    rows = [int(row) for row in sample_queries(len(gallery), options.images, seed=options.seed)]
    left = [row for row in rows if gallery.ids[row] not in known]
    budget, total = options.search.queries, options.search.queries * len(rows)

    def written(images: tuple[ImageEntry, ...]) -> RankOnlyResult:
        result = RankOnlyResult(
            command=command,
            system=description,
            settings=settings,
            figure=RANK_FIGURES[options.attack],
            finished=len(images) == len(rows),
            unknown_ids=tuple(sorted(unknown)[:_SHOWN_IDS]),
            images=images,
            summary=summarize(images, seed=options.seed),
        )
        write_json(out, result.model_dump(mode="json"))
        return result

    result = written(images)
    for begin in range(0, len(left), options.block):
        block, before = left[begin : begin + options.block], budget * len(images)
        found, missing = attack_block(
            system,
            gallery,
            block,
            options.search,
            attack=options.attack,
            targets=options.targets,
            epsilon=options.epsilon,
            side=options.side,
            seed=options.seed,
            on_queries=_progress(on_progress, before, total),
        )
        unknown |= missing
        images = (*images, *found)
        result = written(images)
        on_progress(StageProgress(stage=_STAGE, done=budget * len(images), total=total))
    return result


def _progress(on_progress: OnProgress, before: int, total: int) -> Callable[[int], None]:
    return lambda count: on_progress(StageProgress(stage=_STAGE, done=before + count, total=total))
