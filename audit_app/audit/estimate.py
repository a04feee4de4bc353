"""How long an audit will take, measured on a first batch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import torch

from hardrank.audit_app.audit.options import AuditOptions, CurveParameter
from hardrank.audit_app.blackbox import make_search
from hardrank.audit_app.blackbox.choice import SearchMethod, method_name
from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.transfer import resize_images
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.images.edits import EDIT_COUNT
from hardrank.audit_app.results.schema import WHITE_BOX
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.progress import duration_text
from hardrank.trainer.attacks.attack import victims_in
from hardrank.trainer.attacks.runner import AttackProgress, run_attack
from hardrank.trainer.evaluation.robustness import sample_queries
from hardrank.trainer.evaluation.sanity import LARGE_STEPS, SEARCH_QUERIES
from hardrank.trainer.evaluation.strong_plan import plan_searches

LONG_S: Final = 1800.0
"""An estimated duration from which the options that shorten an audit are named."""
_BATCH: Final = 4
"""Images that are attacked to measure the pace on a CPU."""
_ENOUGH_S: Final = 1.0
"""Once this much was spent on measuring, the remaining attacks are taken to be as fast as those before."""
_STEPS: Final = 2
_TIMED: Final = 3
"""Gradient steps that are timed; the fastest counts, since other work on the machine can only delay them."""
_PASSES_A_STEP: Final = 3
"""Forward passes that take as long as a step of an attack, with its gradient."""
_MARGIN: Final = "MARGIN"
"""The attack whose steps are measured for several targets together."""


class AuditPart(StrEnum):
    """A part of the audit of one model, in their order."""

    ATTACKS = "attacks"
    CHECKS = "checks"
    """The sanity runs, and the attacks with another seed."""
    STRONG = "stronger attacks"
    CURVES = "curves"
    TRANSFORMS = "transforms"
    """The attacks repeated for transformed files, and edits."""
    CERTIFICATES = "certificates"
    THREATS = "other threat models"
    WORST_CASES = "worst cases"


@dataclass(frozen=True, kw_only=True)
class ModelPace:
    """How fast one model is attacked."""

    name: str
    method: str
    """`white-box`, `transfer` or the name of the search."""
    search: Search | None
    """The black-box search; None for attacks along gradients."""
    seconds: Mapping[str, float]
    """By attack: of one step or query, for one image."""

    @property
    def unit(self) -> str:
        """What the attacker's effort is counted in."""
        return "steps" if self.search is None else "queries"

    def effort(self, options: AuditOptions) -> int:
        """Steps or queries of one attack on one image."""
        if self.search is not None:
            return self.search.queries
        return options.robustness.steps * options.robustness.restarts

    def parts(self, options: AuditOptions, attacked: int) -> dict[AuditPart, float]:
        """Estimate the seconds that the parts of the audit of this model take."""
        robustness, effort = options.robustness, self.effort(options)
        every, slowest = sum(self.seconds.values()), max(self.seconds.values())
        checks = min(attacked, robustness.seed_check) * every * effort
        if self.method == WHITE_BOX:
            checks += min(attacked, robustness.sanity_images) * slowest * (LARGE_STEPS + SEARCH_QUERIES)
        curves, sample = 0.0, min(attacked, options.curve_attacked)
        for curve in options.curves:
            if curve.parameter is CurveParameter.EPSILON:
                curves += sample * every * effort * len(curve.values)
            elif (curve.parameter is CurveParameter.QUERIES) == (self.search is not None):
                curves += sample * every * sum(curve.values)
        strong = min(attacked, robustness.strong_images) if self.method == WHITE_BOX else 0
        return {
            AuditPart.ATTACKS: attacked * every * effort,
            AuditPart.CHECKS: checks,
            AuditPart.STRONG: strong * self._strong_search(options) if strong else 0.0,
            AuditPart.CURVES: curves,
            AuditPart.TRANSFORMS: min(attacked, options.transform_images)
            * (every * effort + slowest * EDIT_COUNT / _PASSES_A_STEP),
            AuditPart.CERTIFICATES: 0.0
            if options.certificates is None
            else min(attacked, options.certificates.images) * options.certificates.passes * slowest / _PASSES_A_STEP,
            AuditPart.THREATS: slowest * options.threats.passes(effort) if self.method == WHITE_BOX else 0.0,
            AuditPart.WORST_CASES: min(options.worst, attacked) * slowest * effort,
        }

    def _strong_search(self, options: AuditOptions) -> float:
        """Estimate the seconds of the stronger attacks on one image: all searches, each with all its steps.

        MARGIN counts with one target, since its other targets are tried only on images that withstand the first.
        """
        once = {name: seconds for name, seconds in self.seconds.items() if name != _MARGIN} or self.seconds
        usual = sum(once.values()) / len(once)
        robustness = options.robustness
        searches = plan_searches(options.build(), robustness, restarts=robustness.strong_restarts, seed=options.seed)
        return sum(search.options.steps * once.get(search.attack.name, usual) for search in searches)

    def duration(self, options: AuditOptions, attacked: int) -> float:
        """Estimate the seconds that the audit of this model takes."""
        return sum(self.parts(options, attacked).values())


@dataclass(frozen=True, kw_only=True)
class AuditEstimate:
    """What an audit does, and how long it takes at the measured pace."""

    options: AuditOptions
    attacked: int
    models: tuple[ModelPace, ...]

    @property
    def seconds(self) -> float:
        """Estimated duration of the attacks and checks; often less, since images that resist no longer are finished."""
        return sum(model.duration(self.options, self.attacked) for model in self.models)

    def parts(self) -> dict[tuple[str, AuditPart], float]:
        """Return the estimated seconds by model and part, in the order in which they run."""
        return {
            (model.name, part): seconds
            for model in self.models
            for part, seconds in model.parts(self.options, self.attacked).items()
        }

    def with_options(self, options: AuditOptions, items: int) -> "AuditEstimate":
        """Return the estimate of an audit with the same models, attacks, norm and engine, but other options.

        Args:
            options: The other options.
            items: Number of images in the gallery.
        """
        attacked = items if options.attacked is None else min(options.attacked, items)
        return replace(self, options=options, attacked=attacked)

    def lines(self) -> list[str]:
        """Describe the work, a line for each model and one for the total."""
        count = len(self.options.attacks)
        found = [
            f"{model.name}: {count} {'attack' if count == 1 else 'attacks'} × {self.attacked} images × "
            f"{model.effort(self.options)} {model.unit} ({model.method}), about "
            f"{duration_text(model.duration(self.options, self.attacked))}"
            for model in self.models
        ]
        return found if len(found) == 1 else [*found, f"in total about {duration_text(self.seconds)}"]


def estimate_audit(
    galleries: Sequence[EmbeddedGallery], options: AuditOptions, *, surrogate: Subject | None = None
) -> AuditEstimate:
    """Estimate the duration of an audit from a few steps of its attacks on a few images, which takes about a second.

    Args:
        galleries: The gallery, embedded by each model.
        options: Options of the audit.
        surrogate: The model that transfer attacks use.
    """
    rows = sample_queries(len(galleries[0]), options.attacked, seed=options.seed)
    models = tuple(_pace(embedded, options, surrogate, rows) for embedded in galleries)
    return AuditEstimate(options=options, attacked=len(rows), models=models)


def pass_duration(subject: Subject, images: torch.Tensor, *, clock: Callable[[], float] = time.monotonic) -> float:
    """Measure the seconds of one gradient step for one image; of one query if the model has no gradients.

    Args:
        subject: The model.
        images: (n,3,S,S) in [0,1] on its device.
        clock: Returns the time in seconds.
    """
    pixels = images.detach().clone().requires_grad_(subject.white_box)
    times = []
    for _ in range(1 + _TIMED):
        began = clock()
        if subject.white_box:
            torch.autograd.grad(subject.gradients(pixels).sum(), pixels)
        else:
            subject.judge(pixels)
        if subject.device.type == "cuda":
            torch.cuda.synchronize(subject.device)
        times.append(clock() - began)
    return min(times[1:]) / len(images)  # the first one prepares buffers and kernels


def _pace(embedded: EmbeddedGallery, options: AuditOptions, surrogate: Subject | None, rows: torch.Tensor) -> ModelPace:
    subject = embedded.subject
    method = method_name(subject, options.method, options.robustness.norm)
    cuda = subject.device.type == "cuda"
    some = rows[: options.batch if cuda else _BATCH]
    if method == SearchMethod.TRANSFER and surrogate is not None:
        images = resize_images(embedded.images(some), surrogate.size).to(surrogate.device)
        seconds = dict.fromkeys(options.attacks, pass_duration(surrogate, images))
        return ModelPace(name=subject.name, method=method, search=None, seconds=seconds)
    search = None if method == WHITE_BOX else make_search(method, **options.search)
    seconds = {}
    began = time.monotonic()
    for name in options.attacks:
        if seconds and time.monotonic() - began > _ENOUGH_S:
            seconds[name] = sum(seconds.values()) / len(seconds)
            continue
        if not seconds:  # the first pass prepares buffers and kernels
            _attack_duration(embedded, options, search, name, some[:1])
        seconds[name] = _attack_duration(embedded, options, search, name, some)
    return ModelPace(name=subject.name, method=method, search=search, seconds=seconds)


def _attack_duration(
    embedded: EmbeddedGallery, options: AuditOptions, search: Search | None, name: str, rows: torch.Tensor
) -> float:
    """Attack a few images for a few steps or queries; return the seconds of one of them for one image."""
    subject = embedded.subject
    victims = victims_in(embedded.tensors, rows.to(subject.device))
    images = embedded.images(victims.own)
    last: dict[str, float] = {}

    def on_step(progress: AttackProgress) -> None:
        if subject.device.type == "cuda":
            torch.cuda.synchronize(subject.device)
        asked = progress.queries
        last.update(at=time.monotonic(), units=float(progress.step * len(rows) if asked is None else asked.sum()))

    few: Any = run_attack
    if search is not None:
        few = replace(search, queries=min(search.queries, 2 * search.least_queries))
    began = time.monotonic()
    few(
        options.robustness.attacks([name])[name],
        subject.judge if search is not None else subject.gradients,
        images,
        victims,
        embedded.tensors,
        replace(options.robustness, steps=min(_STEPS, options.robustness.steps), restarts=1),
        seed=options.seed,
        judge=subject.judge,
        on_step=on_step,
    )
    if not last.get("units"):  # nothing to do for these images
        return (time.monotonic() - began) / len(rows)
    return (last["at"] - began) / last["units"]
