"""How much of an audit fits into a time budget: fewer images, then fewer queries."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from hardrank.audit_app.audit.estimate import AuditEstimate
from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.blackbox import make_search
from hardrank.audit_app.blackbox.choice import SearchMethod, method_name
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.results.schema import WHITE_BOX
from hardrank.models.progress import duration_text

BLACK_BOX_BUDGET_S: Final = 600.0
"""Time that an audit may take by default if a model has no gradients, and neither images nor queries are given."""
FEWEST_IMAGES: Final = 50
"""Images that a time budget keeps as long as fewer queries suffice."""
FEWEST_QUERIES: Final = 100
_LEAST_IMAGES: Final = 2
_CHECKED_SHARE: Final = 4
"""With a time budget, checks use at most one in this many images."""


def runs_searches(galleries: Sequence[EmbeddedGallery], options: AuditOptions) -> bool:
    """Return whether a model is attacked by a black-box search."""
    norm = options.robustness.norm
    names = {method_name(one.subject, options.method, norm) for one in galleries}
    return bool(names - {WHITE_BOX, str(SearchMethod.TRANSFER)})


def fit_to_budget(estimate: AuditEstimate, budget: float) -> AuditEstimate:
    """Attack fewer images, then with fewer queries, until the estimated duration is within a budget of seconds.

    At least `FEWEST_IMAGES` images are kept as long as `FEWEST_QUERIES` or more queries suffice for the rest. If even
    the smallest audit takes longer, that one is returned.
    """
    searching = [model.search for model in estimate.models if model.search is not None]
    fewest = min(FEWEST_IMAGES, estimate.attacked)
    asked = max((search.queries for search in searching), default=1)
    least = min(asked, max([FEWEST_QUERIES, *(search.least_queries for search in searching)]))

    def at(images: int, queries: int) -> AuditEstimate:
        return _reduced(estimate, images, queries if queries < asked else None)

    def fits(images: int, queries: int) -> bool:
        return at(images, queries).seconds <= budget

    if fits(estimate.attacked, asked):
        return estimate
    if fits(fewest, asked):
        return at(_largest(lambda n: fits(n, asked), fewest, estimate.attacked), asked)
    if searching and fits(fewest, least):
        return at(fewest, _largest(lambda q: fits(fewest, q), least, asked))
    lowest = min(_LEAST_IMAGES, estimate.attacked)
    return at(_largest(lambda n: fits(n, least), lowest, fewest), least)


def describe_reduction(requested: AuditOptions, fitted: AuditOptions, budget: float, *, items: int) -> tuple[str, ...]:
    """Say in a sentence, for the report, what a time budget left out.

    Args:
        requested: The options without the budget.
        fitted: Those within the budget.
        budget: Seconds.
        items: Number of images in the gallery.
    """
    parts = []
    before, after = (min(items, options.attacked or items) for options in (requested, fitted))
    if after < before:
        parts.append(f"{after} images were attacked instead of {before}")
    checks = [(one.robustness.seed_check, one.robustness.sanity_images) for one in (requested, fitted)]
    if checks[1] < checks[0]:
        parts.append(f"checks used at most {max(checks[1])}")
    if fitted.transform_images < requested.transform_images:
        parts.append(f"{fitted.transform_images} were transformed and edited instead of {requested.transform_images}")
    if requested.threats.threats and fitted.threats.images < requested.threats.images:
        parts.append(f"other threat models attacked {fitted.threats.images} instead of {requested.threats.images}")
    asked, left = (0 if one.certificates is None else one.certificates.images for one in (requested, fitted))
    if left < asked:
        parts.append(f"{left} were certified instead of {asked}")
    asked, left = (make_search(options.searched, **options.search).queries for options in (requested, fitted))
    if left < asked:
        parts.append(f"searches without gradients took at most {left} queries per image and attack instead of {asked}")
    return (f"To fit the time budget of {duration_text(budget)}, {', '.join(parts)}.",) if parts else ()


def _reduced(estimate: AuditEstimate, images: int, queries: int | None) -> AuditEstimate:
    options, models = replace(estimate.options, attacked=images), estimate.models
    if images < estimate.attacked:  # so that the checks of a small sample do not take longer than its attacks
        checked = max(_LEAST_IMAGES, images // _CHECKED_SHARE)
        robustness, certificates, threats = options.robustness, options.certificates, options.threats
        if certificates is not None:
            certificates = replace(certificates, images=min(certificates.images, checked))
        options = replace(
            options,
            robustness=replace(
                robustness,
                seed_check=min(robustness.seed_check, checked),
                sanity_images=min(robustness.sanity_images, checked),
                strong_images=min(robustness.strong_images, checked),
            ),
            transform_images=min(options.transform_images, checked),
            certificates=certificates,
            threats=replace(threats, images=min(threats.images, checked)),
        )
    if queries is not None:
        options = replace(options, search={**options.search, "queries": queries})
        models = tuple(
            model if model.search is None else replace(model, search=replace(model.search, queries=queries))
            for model in models
        )
    return replace(estimate, options=options, attacked=images, models=models)


def _largest(good: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number from `low` to `high` that is good, or `low`; smaller numbers are better."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low
