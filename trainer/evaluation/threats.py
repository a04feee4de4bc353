"""Other threat models than one small perturbation for each image: universal perturbations, patches, hubs.

They are measured like a scorecard, each on its own, and count neither for ERS nor for the worst cases.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Attack, Gallery, victims_in
from hardrank.trainer.attacks.hub import HubAttack
from hardrank.trainer.attacks.options import AttackError, Option, check_names, declared_options
from hardrank.trainer.attacks.patch import PatchMethod
from hardrank.trainer.attacks.registry import offered_attacks
from hardrank.trainer.attacks.runner import Method, never_cancel
from hardrank.trainer.attacks.universal import UniversalOptions, learn_all
from hardrank.trainer.evaluation.blocks import EvaluationPhase, EvaluationProgress, ImageProvider, cancelled
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import RobustnessOptions, measure_robustness
from hardrank.trainer.evaluation.scorecard import Scorecard

GOALS: Final = ("ES", "TMA", "QA+", "QA-", "CA+", "CA-")
"""The attacks whose goals universal perturbations and patches pursue by default."""


@dataclass(frozen=True, kw_only=True)
class ThreatKind:
    """A threat model, as command lines, reports and documentation know it."""

    name: str
    title: str
    """What the attacker may do, in one line."""
    build: type
    """The dataclass of its options."""
    prepare: "Callable[[ThreatTask, Any], tuple[Mapping[str, Attack], Method | None]]"
    """Returns the attacks and the method with which to measure them, from the task and the options."""
    passes: "Callable[[Any, ThreatOptions, int], int]"
    """Returns about how many passes it takes, from its options, the request and the steps of an attack."""

    @property
    def options(self) -> tuple[Option, ...]:
        """The options that a caller may set."""
        return declared_options(self.build)

    def make(self, **options: Any) -> Any:
        """Build its options; raises `AttackError` for unknown names and invalid values."""
        check_names(self.build, options)
        return self.build(**options)


@dataclass(frozen=True, kw_only=True)
class ThreatTask:
    """What a threat model is measured on."""

    embed: Embed
    images: ImageProvider
    gallery: Gallery
    learn: Tensor
    """(L,): gallery rows that may be learnt on; none of them is attacked."""
    goals: Mapping[str, Attack]
    budget: RobustnessOptions
    seed: int
    on_update: Callable[[int, int], None]


def _universal(task: ThreatTask, options: UniversalOptions) -> tuple[Mapping[str, Attack], Method]:
    chosen = np.random.default_rng([task.seed, 0x57]).permutation(len(task.learn))[: options.images]
    rows = task.learn[torch.from_numpy(np.sort(chosen)).to(task.learn.device)]
    if not len(rows):
        raise AttackError("universal: all images of the gallery are attacked, so none is left to learn on")
    method = learn_all(
        task.goals,
        task.embed,
        task.images(rows),
        victims_in(task.gallery, rows),
        task.gallery,
        task.budget,
        options,
        seed=task.seed,
        on_update=task.on_update,
    )
    return task.goals, method


THREATS: Final[Mapping[str, ThreatKind]] = {
    kind.name: kind
    for kind in (
        ThreatKind(
            name="universal",
            title="one perturbation for all images, learnt on other images than the attacked ones",
            build=UniversalOptions,
            prepare=_universal,
            passes=lambda own, threats, steps: len(threats.goals) * own.images * own.epochs,
        ),
        ThreatKind(
            name="patch",
            title="a square of the image takes any pixels",
            build=PatchMethod,
            prepare=lambda task, options: (task.goals, options),
            passes=lambda own, threats, steps: len(threats.goals) * threats.images * steps * own.places,
        ),
        ThreatKind(
            name="hub",
            title="an image of the gallery becomes a neighbor of as many queries as possible",
            build=HubAttack,
            prepare=lambda task, options: ({"HUB": options}, None),
            passes=lambda own, threats, steps: threats.images * steps,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class ThreatOptions:
    """Which threat models are measured, and how. Raises `AttackError` for unknown names and invalid values."""

    threats: tuple[str, ...] = ()
    """Names in `THREATS`."""
    goals: tuple[str, ...] = GOALS
    """Names of the attacks whose goals universal perturbations and patches pursue."""
    images: int = 100
    """Number of attacked images; at most half of the gallery, so that others are left to learn on."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By threat model, options that differ from their defaults."""

    def __post_init__(self) -> None:
        if unknown := [name for name in (*self.threats, *self.settings) if name not in THREATS]:
            raise AttackError(f"unknown threat model {unknown[0]!r}; available: {', '.join(THREATS)}")
        if self.images < 1 or not self.goals or len(set(self.goals)) < len(self.goals):
            raise AttackError(
                f"threats on {self.images} images with the goals {', '.join(self.goals) or 'none'}: give one image or "
                "more, and name each goal once"
            )
        if unknown := [name for name in self.goals if name not in offered_attacks()]:
            raise AttackError(f"unknown goal {unknown[0]!r}; available: {', '.join(offered_attacks())}")
        for name in self.threats:
            self.make(name)

    def make(self, name: str) -> Any:
        """Return the options of a threat model."""
        return THREATS[name].make(**self.settings.get(name, {}))

    def passes(self, steps: int) -> int:
        """Return about how many forward and backward passes all of them take, with `steps` steps of an attack."""
        return sum(THREATS[name].passes(self.make(name), self, steps) for name in self.threats)


@dataclass(frozen=True, kw_only=True)
class ThreatResult:
    """What a threat model achieves."""

    name: str
    card: Scorecard
    """Its figures before, under noise and under attack, with intervals; no ERS."""
    options: Mapping[str, Any]
    """Of the threat model, as it ran."""
    seconds: float
    """Duration of this run."""


def check_threats(gallery: Gallery, threats: ThreatOptions, options: RobustnessOptions) -> None:
    """Raise `AttackError` if the gallery does not allow one of the requested attacks."""
    chosen = [threats.make(name) for name in threats.threats]
    attacks: list[Attack] = [one for one in chosen if isinstance(one, HubAttack)]
    if len(attacks) < len(chosen):
        attacks += options.attacks(threats.goals).values()
    some = victims_in(gallery, torch.zeros(1, dtype=torch.long))
    for attack in attacks:
        attack.objective(some, gallery, attack.draw(some, gallery, seed=0))


def measure_threats(
    embed: Embed,
    images: ImageProvider,
    gallery: Tensor,
    labels: Tensor,
    rows: Tensor,
    *,
    threats: ThreatOptions,
    options: RobustnessOptions | None = None,
    seed: int = 0,
    batch: int = 128,
    judge: Embed | None = None,
    progress: Callable[[str, EvaluationProgress], None] | None = None,
    cancel: Callable[[], bool] = never_cancel,
    resume: Callable[[str], Journal] | None = None,
) -> tuple[ThreatResult, ...]:
    """Measure other threat models than one small perturbation for each image.

    Args:
        embed: the network, images (n,3,H,W) → embeddings (n,D) on the unit sphere; it gives the gradients.
        images: returns pixels in [0,1] for gallery rows.
        gallery: (N,D) benign embeddings of all images, on the unit sphere.
        labels: (N,) classes.
        rows: gallery rows that may be attacked; `threats.images` of them are, evenly spaced.
        threats: which threat models, and how.
        options: ε, α, steps and engine; the published protocol by default.
        seed: of all draws.
        batch: how many images are attacked at once.
        judge: embeds the final images, as in `measure_robustness`.
        progress: called after each step with the name of the threat model.
        cancel: called before each step; the measurement ends when it returns True.
        resume: returns the journal of a threat model, which keeps finished blocks.

    Returns:
        The results, in the order of `threats.threats`.

    Raises:
        AttackError: for input that cannot be attacked.
        CancelledError: when `cancel` returned True.
    """
    options = replace(options or RobustnessOptions(), seed_check=0, sanity_images=0, strong_images=0)
    store = Gallery(gallery, labels.to(gallery.device))
    count = min(threats.images, len(rows), max(1, len(store) // 2))
    attacked = rows[torch.arange(count, device=rows.device) * len(rows) // count]
    others = torch.ones(len(store), dtype=torch.bool)
    others[attacked.cpu()] = False
    learn = others.nonzero().squeeze(1).to(gallery.device)
    found = []
    for name in threats.threats:
        began = time.perf_counter()

        def on_update(done: int, total: int, name: str = name) -> None:
            if cancel():
                raise cancelled()
            if progress is not None:
                share = done * len(attacked) // max(1, total)
                progress(name, EvaluationProgress(name, 0, 1, share, len(attacked), None, EvaluationPhase.LEARNING))

        chosen = threats.make(name)
        task = ThreatTask(
            embed=embed,
            images=images,
            gallery=store,
            learn=learn,
            goals=options.attacks(threats.goals),
            budget=options,
            seed=seed,
            on_update=on_update,
        )
        attacks, method = THREATS[name].prepare(task, chosen)
        card = measure_robustness(
            embed,
            images,
            gallery,
            labels,
            attacked,
            options=options,
            attacks=attacks,
            seed=seed,
            batch=batch,
            judge=judge,
            method=method,
            progress=None if progress is None else lambda state, name=name: progress(name, state),  # type: ignore[misc]
            cancel=cancel,
            resume=None if resume is None else resume(name),
        )
        recorded = {declared.name: getattr(chosen, declared.name) for declared in THREATS[name].options}
        found.append(ThreatResult(name=name, card=card, options=recorded, seconds=time.perf_counter() - began))
    return tuple(found)
