"""Measures a scorecard: attacks a gallery's images block by block, resumably, and collects the results."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims, victims_in
from hardrank.trainer.attacks.gtm import Unmatched
from hardrank.trainer.attacks.options import AttackError, option, plain_options
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD, make_attack
from hardrank.trainer.attacks.runner import (
    AttackOptions,
    Method,
    check_images,
    never_cancel,
)
from hardrank.trainer.evaluation.blocks import (
    BlockResults,
    EvaluationPhase,
    EvaluationProgress,
    EvaluationTask,
    ImageProvider,
    attack_all,
    rows_of,
    table_of,
)
from hardrank.trainer.evaluation.diagnostics import (
    check_attacks,
    check_chance,
    check_collapse,
    check_determinism,
    check_gradient,
    check_large_budget,
    check_search,
    compare_seeds,
    random_recall,
    sanity_figures,
)
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.sanity import require_evaluation_mode, run_sanity_sample
from hardrank.trainer.evaluation.scorecard import Check, CheckKind, Scorecard, StrongScore, figures_of, summarize
from hardrank.trainer.evaluation.strong import EOT_PASSES, STRONG_RESTARTS, run_strong
from hardrank.trainer.metric.distances import mean_cosine
from hardrank.trainer.runtime.processes import SINGLE_PROCESS, Processes

SEED_CHECK: Final = 32
"""The default number of queries that are attacked again with another seed."""

SANITY_IMAGES: Final = 32
"""The default and the largest number of images of the sanity runs."""


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions(AttackOptions):
    """How a scorecard is measured; ε, α, steps and engine default to the published protocol."""

    bootstrap: int = option(
        1000, minimum=2, unit="resamples", help="number of bootstrap resamples of the images, for the 95 % intervals"
    )
    seed_check: int = option(
        SEED_CHECK,
        minimum=0,
        unit="queries",
        help="number of queries attacked again with the next seed, to see whether results vary with it",
    )
    sanity_images: int = option(
        SANITY_IMAGES,
        minimum=0,
        maximum=SANITY_IMAGES,
        unit="queries",
        help="number of images attacked without gradients and with a large budget, to check the gradients",
    )
    strong_images: int = option(
        0,
        minimum=0,
        unit="queries",
        help="number of attacked images that are also attacked with stronger attacks, for the strong ERS; 0: none",
    )
    strong_restarts: int = option(
        STRONG_RESTARTS,
        minimum=1,
        unit="runs",
        help="runs of each stronger attack, all but the first from random starts; MARGIN takes two more",
    )
    unmatched: Unmatched = option(  # noqa: RUF009
        Unmatched.REFERENCE,
        help="GTM's item of another class: the row that the released code of the paper takes by an index mistake, as "
        "in all published numbers, or the true nearest one",
    )

    def attacks(self, names: Iterable[str] = SCORECARD) -> dict[str, Attack]:
        """Build attacks by name, with the options above that apply to them; raises `AttackError` for unknown names."""
        return {name: make_attack(name, **self._shared(name)) for name in names}

    def _shared(self, name: str) -> dict[str, Any]:
        declared = ATTACKS[name].options if name in ATTACKS else ()
        return {option.name: getattr(self, option.name) for option in declared if option.name in _OF_ATTACKS}


_OF_ATTACKS: Final = frozenset({"unmatched"})
"""Options of `RobustnessOptions` that belong to an attack; they are recorded with it."""


def bytes_provider(images: Tensor) -> ImageProvider:
    """Return a provider of float32 images in [0,1] from `images`, uint8 (N,3,H,W)."""
    return lambda rows: images[rows.to(images.device)].to(torch.float32) / 255


def measure_robustness(
    embed: Embed,
    images: ImageProvider,
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    options: RobustnessOptions | None = None,
    attacks: Mapping[str, Attack] | None = None,
    seed: int = 0,
    batch: int = 128,
    judge: Embed | None = None,
    method: Method | None = None,
    progress: Callable[[EvaluationProgress], None] | None = None,
    cancel: Callable[[], bool] = never_cancel,
    resume: Journal | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> Scorecard:
    """Attack some of the gallery's images with each attack, and score how the rankings hold.

    What is drawn depends on `seed`, attack, gallery and query alone. `batch` and interruptions change results only by
    rounding: embeddings by about 1e-6 in float32, by up to 0.004 in bf16.

    Args:
        embed: the network, images (n,3,H,W) → embeddings (n,D) on the unit sphere; it gives the gradients.
        images: returns pixels in [0,1] for gallery rows.
        gallery: (N,D) benign embeddings of all images, on the unit sphere.
        labels: (N,) classes.
        queries: (n,) different gallery rows to attack.
        options: budget, engine, checks; the published protocol by default.
        attacks: what to run, by name; by default those of the scorecard (`options.attacks()`).
        seed: of targets and random starts.
        batch: how many images are attacked at once.
        judge: embeds the final images in place of `embed`, for example in float32 where `embed` is bf16.
        method: searches in place of gradient descent; `embed` then needs no gradient.
        progress: called after each step.
        cancel: called before each step; the evaluation ends when it returns True.
        resume: keeps finished blocks; a later call with the same journal continues from there.
        processes: share the work; all of them call this with the same arguments and return the same scorecard.

    Returns:
        The scorecard. Its number of passes covers the whole measurement, also after a resumption.

    Raises:
        AttackError: for input that cannot be attacked.
        JournalError: for a journal of another evaluation.
        CancelledError: when `cancel` returned True.
    """
    options = options or RobustnessOptions()
    attacks = options.attacks() if attacks is None else attacks
    store = Gallery(gallery, labels.to(gallery.device))
    victims = victims_in(store, queries)
    if len(victims) == 0 or batch < 1 or not attacks:
        raise AttackError(f"nothing to attack: {len(victims)} queries, {len(attacks)} attacks, batch {batch}")
    if len(set(victims.own.tolist())) < len(victims):
        raise AttackError("duplicate query; name each gallery row once")
    for network in (embed, judge):
        if network is not None:
            require_evaluation_mode(network)
    task = EvaluationTask(
        embed, judge or embed, images, store, attacks, options, batch, progress, cancel, method, processes
    )
    done = {name: BlockResults(victims) for name in attacks}
    if resume is not None:
        resume.open(_settings(task, options, seed), _probe(gallery))
        for name in attacks:
            for rows, columns in resume.load(name):
                done[name].put(rows, columns)
        processes.wait()  # all of them have read the same before the first block is added
    steady, checked = _check_network(task, victims[: min(max(batch, 2), SANITY_IMAGES)])
    attack_all(task, victims, done, seed=seed, resume=resume)
    table = table_of(task, victims, done)
    checks = [
        *steady,
        *check_attacks(table, attacks, steps=options.steps, epsilon=_per_pixel(options, task.images(victims.own[:1]))),
        *check_collapse(store),
        *check_chance(store),
    ]
    passes = sum(results.passes for results in done.values())
    sanity: dict[str, float] = {}
    if method is None:  # the passes of a search are its queries
        passes += checked
    if options.sanity_images and method is None:
        runs = run_sanity_sample(task, victims, table, images=options.sanity_images, seed=seed)
        sanity = sanity_figures(runs)
        passes += runs.passes
        checks += [
            *check_search(runs),
            *check_large_budget(
                runs, pair_distance=(2 - 2 * mean_cosine(gallery)) ** 0.5, chance=random_recall(store.labels)
            ),
            *check_gradient(runs),
        ]
    if options.seed_check:
        some = victims[: options.seed_check]
        again = {name: BlockResults(some) for name in attacks}
        attack_all(replace(task, phase=EvaluationPhase.OTHER_SEED), some, again, seed=seed + 1, resume=None)
        passes += sum(results.passes for results in again.values())
        checks += compare_seeds(
            [rows_of(table, np.arange(len(some))), table_of(task, some, again)], figures_of(attacks)
        )
    figures = figures_of(attacks)
    strong: StrongScore | None = None
    if options.strong_images and method is None:
        random = any(check.kind is CheckKind.RANDOM_NETWORK for check in steady)
        averaged = replace(options, eot=max(options.eot, EOT_PASSES)) if random else options
        strong, worst = run_strong(
            replace(task, options=averaged),
            victims,
            table,
            images=options.strong_images,
            restarts=options.strong_restarts,
            seed=seed,
            resamples=options.bootstrap,
            resume=resume,
        )
        passes += sum(setting.gradients for setting in strong.settings)
        table = replace(table, columns={**table.columns, **worst})
    return Scorecard(
        **vars(summarize(table, figures, seed=seed, resamples=options.bootstrap)),
        mean_cosine=mean_cosine(gallery),
        checks=tuple(checks),
        gallery=len(store),
        seeds=(seed, seed + 1) if options.seed_check else (seed,),
        options={**_recorded(options), **_method(task)},
        attacks={name: plain_options(attack) for name, attack in attacks.items()},
        passes=passes,
        scales=figures,
        per_image=table,
        sanity=sanity,
        strong=strong,
    )


def sample_queries(count: int, wanted: int | None, *, seed: int) -> Tensor:
    """Return the rows to attack in a gallery of `count` images, sorted (n,): all, or a seeded sample of `wanted`."""
    if wanted is None or wanted >= count:
        return torch.arange(count)
    drawn = np.random.default_rng([seed, count]).permutation(count)[:wanted]
    return torch.from_numpy(np.sort(drawn))


def _settings(task: EvaluationTask, options: RobustnessOptions, seed: int) -> dict[str, Any]:
    """What the journal's results depend on, in declared names and values only."""
    ignored = {"bootstrap", "seed_check", "sanity_images", "strong_images", "strong_restarts"}
    return {
        "seed": seed,
        "gallery": list(task.gallery.embeddings.shape),
        "options": {key: value for key, value in _recorded(options).items() if key not in ignored},
        "attacks": {name: {"name": attack.name, **plain_options(attack)} for name, attack in task.attacks.items()},
        **_method(task),
    }


def _recorded(options: RobustnessOptions) -> dict[str, Any]:
    """The options but those that are recorded with the attacks."""
    return {name: value for name, value in asdict(options).items() if name not in _OF_ATTACKS}


def _method(task: EvaluationTask) -> dict[str, Any]:
    """The search, where it is not gradient descent."""
    return {} if task.method is None else {"method": task.method.describe()}


def _probe(gallery: Tensor) -> np.ndarray:
    rows = torch.linspace(0, len(gallery) - 1, min(64, len(gallery)), device=gallery.device).long()
    return gallery[rows].double().cpu().numpy()


@torch.no_grad()
def _check_network(task: EvaluationTask, victims: Victims) -> tuple[list[Check], int]:
    """Embed a batch twice, and two of its images apart; all must agree. Return checks and the number of passes."""
    images = task.images(victims.own)
    check_images(images, victims)
    first, again, part = task.judge(images), task.judge(images), task.judge(images[:2])
    away = (first - victims.embeddings).norm(dim=1)
    if not bool((away < 0.2).all()):
        row = int(victims.own[away.nan_to_num(9).argmax()])
        raise AttackError(
            f"the image of gallery row {row} is embedded at distance {away.max().item():.3g} from that row: "
            "gallery, images and network do not belong together; check the preprocessing, and that the network is in "
            "evaluation mode"
        )
    checks = check_determinism(*(values.double().cpu().numpy() for values in (first, again, part)))
    return checks, 2 * len(images) + len(part)


def _per_pixel(options: RobustnessOptions, images: Tensor) -> float:
    """Return the L∞ budget; of an L2 budget, the root mean square over the pixels of `images` (1,3,H,W)."""
    return options.epsilon if options.norm is Norm.LINF else options.epsilon / images.numel() ** 0.5
