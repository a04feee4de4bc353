"""Plans the strong search: which attacks it runs, with which losses, steps and starts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.margin import MarginAttack
from hardrank.trainer.attacks.options import plain_options
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.attacks.registry import ATTACKS
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions
from hardrank.trainer.evaluation.scorecard import figures_of

_STEPS: Final = 50 / 32
"""Steps of a run as a multiple of the scorecard's: 50 where the scorecard takes 32."""
_MARGIN_TARGETS: Final = (10, 5, 5)
"""Targets of MARGIN's runs, of which all but the first start at random; the scorecard tries 5 from the image."""
_MARGIN_STEPS: Final = 2
"""Steps of MARGIN as a multiple of the others': it attacks few images, and gains with more steps."""


@dataclass(frozen=True)
class Search:
    """One attack of the strong search with its options."""

    name: str
    attack: Attack
    keys: tuple[str, ...]
    """The results that it aims at."""
    options: AttackOptions
    seed: int
    """Of the random start."""


def plan_searches(attacks: Mapping[str, Attack], options: PGDOptions, *, restarts: int, seed: int) -> list[Search]:
    """List the searches for the results of `attacks`, in the order in which they run.

    Args:
        attacks: the scorecard's attacks, by name.
        options: their budget, norm and steps.
        restarts: searches for each attack, all but the first from a random start.
        seed: of the random starts.
    """
    figures = figures_of(attacks)
    recall = tuple(key for key, figure in figures.items() if figure.recall)
    steps = math.ceil(_STEPS * options.steps)
    searches: list[Search] = []

    def add(name: str, attack: Attack, keys: tuple[str, ...], *, length: int, run: int) -> None:
        changed = AttackOptions(
            epsilon=options.epsilon,
            alpha=options.alpha,
            norm=options.norm,
            engine=AttackEngine.APGD,
            steps=length,
            random_start=run > 0,
            eot=options.eot,
        )
        shown = _name(name, attack, attacks.get(name), changed)
        searches.append(Search(name=shown, attack=attack, keys=keys, options=changed, seed=seed + run))

    if recall:  # first, since it leaves few images to the others; and few images are left to it, so it may take long
        runs = (*_MARGIN_TARGETS, *[_MARGIN_TARGETS[-1]] * (restarts - 1))
        for run, count in enumerate(runs):
            add("MARGIN", MarginAttack(targets=count), recall, length=_MARGIN_STEPS * steps, run=run)
    for run in range(restarts):
        for name, attack in attacks.items():
            if name != "MARGIN":
                kind = ATTACKS.get(attack.name)
                aimed = attack if kind is None else kind.aim(attack)
                add(name, aimed, tuple(figure.key for figure in attack.figures), length=steps, run=run)
    return searches


def _name(name: str, attack: Attack, published: Attack | None, options: AttackOptions) -> str:
    """Name a search by its attack, the attack's options that differ from the scorecard's, its engine and its start."""
    ours, theirs = plain_options(attack), {} if published is None else plain_options(published)
    changed = ", ".join(f"{key} {value}" for key, value in ours.items() if theirs and theirs.get(key) != value)
    inside = f" ({changed.replace('_', ' ')})" if changed else ""
    start = ", random start" if options.random_start else ""
    mean = f", mean gradient of {options.eot} passes" if options.eot > 1 else ""
    return f"{name}{inside}, APGD, {options.steps} steps{start}{mean}"
