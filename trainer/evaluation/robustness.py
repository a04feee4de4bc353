"""Measures a scorecard: attacks a gallery's images block by block, resumably, and collects the results."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.models.errors import HardrankError
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims, victims_in
from hardrank.trainer.attacks.es import EmbeddingShift
from hardrank.trainer.attacks.gtm import Unmatched
from hardrank.trainer.attacks.options import AttackError, option, plain_options
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD, make_attack
from hardrank.trainer.attacks.runner import (
    AttackOptions,
    AttackProgress,
    AttackResult,
    Method,
    check_images,
    never_cancel,
    run_attack,
)
from hardrank.trainer.attacks.starts import random_noise
from hardrank.trainer.evaluation.diagnostics import (
    check_attacks,
    check_collapse,
    check_determinism,
    check_gradient,
    check_large_budget,
    check_search,
    compare_seeds,
    sanity_figures,
)
from hardrank.trainer.evaluation.journal import Columns, Journal
from hardrank.trainer.evaluation.sanity import (
    LARGE_STEPS,
    SEARCH_QUERIES,
    SanityRuns,
    join_runs,
    require_evaluation_mode,
    run_sanity,
)
from hardrank.trainer.evaluation.scorecard import Check, PerImage, Scorecard, StrongScore, figures_of, summarise
from hardrank.trainer.evaluation.strong import (
    STRONG_RESTARTS,
    Search,
    plan_searches,
    search_block,
    summarise_strong,
)
from hardrank.trainer.metric.distances import mean_cosine, recall_at_1
from hardrank.trainer.runtime.processes import SINGLE_PROCESS, Processes

ImageProvider = Callable[[Tensor], Tensor]
"""Gallery rows (n,) → their images (n,3,H,W), floats in [0,1]."""

SEED_CHECK: Final = 32
"""The default number of queries that are attacked again with another seed."""

SANITY_IMAGES: Final = 32
"""The default and the largest number of images of the sanity runs."""

_ELEMENTS: Final = 1 << 24
"""How many distances an attack may hold at once: 64 MiB in float32."""


class CancelledError(HardrankError):
    """The evaluation was cancelled; its journal, if it has one, keeps the finished blocks."""


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


class EvaluationPhase(StrEnum):
    """What an evaluation does, in this order."""

    ATTACKS = "attacks"
    SANITY = "sanity runs"
    OTHER_SEED = "attacks with another seed"
    STRONG = "stronger attacks"


@dataclass(frozen=True)
class EvaluationProgress:
    """The state of a running evaluation."""

    attack: str
    attacks_done: int
    """Attacks finished on these queries."""
    attacks: int
    queries_done: int
    """Queries on which all attacks are finished."""
    queries: int
    inside: AttackProgress | None
    """The running attack; None in the sanity runs, of which `queries_done` counts the steps in units of queries."""
    phase: EvaluationPhase


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
    task = _Task(embed, judge or embed, images, store, attacks, options, batch, progress, cancel, method, processes)
    done = {name: _Results(victims) for name in attacks}
    if resume is not None:
        resume.open(_settings(task, seed), _probe(gallery))
        for name in attacks:
            for rows, columns in resume.load(name):
                done[name].put(rows, columns)
        processes.wait()  # all of them have read the same before the first block is added
    steady, checked = _check_network(task, victims[: min(max(batch, 2), SANITY_IMAGES)])
    _attack_all(task, victims, done, seed=seed, resume=resume)
    table = _table(task, victims, done)
    checks = [
        *steady,
        *check_attacks(table, attacks, steps=options.steps, epsilon=_per_pixel(options, task.images(victims.own[:1]))),
        *check_collapse(store),
    ]
    passes = sum(results.passes for results in done.values())
    sanity: dict[str, float] = {}
    if method is None:  # the passes of a search are its queries
        passes += checked
    if options.sanity_images and method is None:
        runs = _run_sanity(task, victims, table, seed=seed)
        sanity = sanity_figures(runs)
        passes += runs.passes
        checks += [
            *check_search(runs),
            *check_large_budget(runs, pair_distance=(2 - 2 * mean_cosine(gallery)) ** 0.5),
            *check_gradient(runs),
        ]
    if options.seed_check:
        some = victims[: options.seed_check]
        again = {name: _Results(some) for name in attacks}
        _attack_all(replace(task, phase=EvaluationPhase.OTHER_SEED), some, again, seed=seed + 1, resume=None)
        passes += sum(results.passes for results in again.values())
        checks += compare_seeds([_rows(table, np.arange(len(some))), _table(task, some, again)], figures_of(attacks))
    figures = figures_of(attacks)
    strong: StrongScore | None = None
    if options.strong_images and method is None:
        strong, worst = _run_strong(task, victims, table, seed=seed, resume=resume)
        passes += sum(setting.gradients for setting in strong.settings)
        table = replace(table, columns={**table.columns, **worst})
    return Scorecard(
        **vars(summarise(table, figures, seed=seed, resamples=options.bootstrap)),
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


@dataclass(frozen=True)
class _Task:
    embed: Embed
    judge: Embed
    images: ImageProvider
    gallery: Gallery
    attacks: Mapping[str, Attack]
    options: RobustnessOptions
    batch: int
    progress: Callable[[EvaluationProgress], None] | None
    cancel: Callable[[], bool]
    method: Method | None
    processes: Processes
    phase: EvaluationPhase = EvaluationPhase.ATTACKS


class _Results:
    """The columns of one attack, filled block by block; a row for each victim."""

    def __init__(self, victims: Victims) -> None:
        self._places = {row: i for i, row in enumerate(victims.own.tolist())}
        self.finished = np.zeros(len(victims), dtype=bool)
        self.columns: dict[str, np.ndarray] = {}

    def put(self, rows: np.ndarray, columns: Columns) -> None:
        """Fill in the results of the gallery rows `rows` (n,); rows that are no victims are ignored."""
        known = np.array([row in self._places for row in rows.tolist()], dtype=bool)
        places = [self._places[row] for row in rows[known].tolist()]
        for name, values in columns.items():
            whole = self.columns.setdefault(name, np.zeros((len(self.finished), *values.shape[1:]), values.dtype))
            whole[places] = values[known]
        self.finished[places] = True

    @property
    def passes(self) -> int:
        """Forward and backward passes that the results took."""
        return int(self.columns["passes"].sum())


def _settings(task: _Task, seed: int) -> dict[str, Any]:
    """What the journal's results depend on, in declared names and values only."""
    ignored = {"bootstrap", "seed_check", "sanity_images", "strong_images", "strong_restarts"}
    return {
        "seed": seed,
        "gallery": list(task.gallery.embeddings.shape),
        "options": {key: value for key, value in _recorded(task.options).items() if key not in ignored},
        "attacks": {name: {"name": attack.name, **plain_options(attack)} for name, attack in task.attacks.items()},
        **_method(task),
    }


def _recorded(options: RobustnessOptions) -> dict[str, Any]:
    """The options but those that are recorded with the attacks."""
    return {name: value for name, value in asdict(options).items() if name not in _OF_ATTACKS}


def _method(task: _Task) -> dict[str, Any]:
    """The search, where it is not gradient descent."""
    return {} if task.method is None else {"method": task.method.describe()}


def _probe(gallery: Tensor) -> np.ndarray:
    rows = torch.linspace(0, len(gallery) - 1, min(64, len(gallery)), device=gallery.device).long()
    return gallery[rows].double().cpu().numpy()


@torch.no_grad()
def _check_network(task: _Task, victims: Victims) -> tuple[list[Check], int]:
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


def _run_sanity(task: _Task, victims: Victims, table: PerImage, *, seed: int) -> SanityRuns:
    """Run the sanity runs on an even sample of the victims, in parts of a batch."""
    stride = slice(None, None, -(-len(victims) // task.options.sanity_images))
    sample = victims[stride]
    known = table.columns["ES:D"][stride] if isinstance(task.attacks.get("ES"), EmbeddingShift) else None

    steps, total = 0, (LARGE_STEPS + SEARCH_QUERIES) * -(-len(sample) // task.batch)

    def on_step() -> None:
        nonlocal steps
        steps = min(steps + 1, total)
        if task.cancel():
            raise _cancelled()
        _report(task, "sanity runs", 0, 1, len(sample) * steps // total, len(sample), None, EvaluationPhase.SANITY)

    parts = []
    for begin in range(0, len(sample), task.batch):
        part = slice(begin, begin + task.batch)
        some = sample[part]
        parts.append(
            run_sanity(
                task.embed,
                task.judge,
                task.images(some.own),
                some,
                task.gallery,
                task.options,
                seed=seed,
                attack_shift=None if known is None else known[part],
                on_step=on_step,
            )
        )
    (first, *_) = task.processes.gather(join_runs(parts))
    return first


def _run_strong(
    task: _Task, victims: Victims, table: PerImage, *, seed: int, resume: Journal | None
) -> tuple[StrongScore, dict[str, np.ndarray]]:
    """Run the strong search on an even sample of the victims; return the score, and a column for each figure."""
    options, processes = task.options, task.processes
    count = min(options.strong_images, len(victims))
    places = np.arange(count) * len(victims) // count
    sample = victims[torch.from_numpy(places).to(victims.own.device)]
    results = _rows(table, places)
    searches = plan_searches(task.attacks, options, restarts=options.strong_restarts, seed=seed)
    known = _Results(sample)
    name = f"strong {zlib.crc32(repr([(search.name, search.seed) for search in searches]).encode()):08x}"
    if resume is not None:
        for rows, columns in resume.load(name):
            known.put(rows, columns)
        processes.wait()
    widest = max(attack.width for attack in (*task.attacks.values(), *(search.attack for search in searches)))
    fits = max(1, _ELEMENTS // max(1, widest * len(task.gallery)))
    size = min(task.batch, fits, -(-len(sample) // processes.size))
    for begin in range(0, len(sample), size * processes.size):
        own = np.arange(begin + size * processes.rank, min(begin + size * (processes.rank + 1), len(sample)))
        own = own[~known.finished[own]]
        found: list[tuple[np.ndarray, Columns]] = []
        if len(own):
            block = sample[torch.from_numpy(own).to(victims.own.device)]
            columns = search_block(
                task.embed,
                task.judge,
                task.images(block.own),
                block,
                task.gallery,
                task.attacks,
                _rows(results, own),
                searches,
                on_step=partial(_report_strong, task, searches, begin, len(sample)),
                cancel=task.cancel,
            )
            if np.isnan(columns["values"]).any():
                raise _cancelled()
            found.append((block.own.cpu().numpy(), columns))
        for of_process in processes.gather(found):
            for rows, columns in of_process:
                known.put(rows, columns)
                if resume is not None and processes.is_first:
                    resume.record(name, rows, columns)
    figures = figures_of(task.attacks)
    score = summarise_strong(
        results,
        known.columns,
        figures,
        searches,
        options={"images": options.strong_images, "restarts": options.strong_restarts},
        seed=seed,
        resamples=options.bootstrap,
    )
    worst = {f"{key} strong": np.full(len(victims), np.nan) for key in figures}
    for i, key in enumerate(figures):
        worst[f"{key} strong"][places] = known.columns["values"][:, i]
    return score, worst


def _rows(table: PerImage, places: np.ndarray) -> PerImage:
    """Return some rows of a table."""
    columns = {name: values[places] for name, values in table.columns.items()}
    return PerImage(rows=table.rows[places], labels=table.labels[places], columns=columns)


def _report_strong(
    task: _Task, searches: Sequence[Search], done: int, queries: int, place: int, inside: AttackProgress
) -> None:
    _report(task, searches[place].name, place, len(searches), done, queries, inside, EvaluationPhase.STRONG)


def _per_pixel(options: RobustnessOptions, images: Tensor) -> float:
    """Return the L∞ budget; of an L2 budget, the root mean square over the pixels of `images` (1,3,H,W)."""
    return options.epsilon if options.norm is Norm.LINF else options.epsilon / images.numel() ** 0.5


def _cancelled() -> CancelledError:
    return CancelledError("the evaluation was cancelled; its journal, if it has one, keeps the finished blocks")


def _attack_all(
    task: _Task, victims: Victims, done: Mapping[str, _Results], *, seed: int, resume: Journal | None
) -> None:
    """Fill `done` with the results of every attack on every victim.

    Each process attacks a block of its own, and they exchange the results after each attack on a block.
    """
    processes = task.processes
    for begin in range(0, len(victims), task.batch * processes.size):
        blocks = slice(begin, begin + task.batch * processes.size)
        missing = [name for name in task.attacks if not done[name].finished[blocks].all()]
        own = begin + task.batch * processes.rank
        part = slice(own, own + task.batch)
        mine = {name for name in missing if not done[name].finished[part].all()}
        block = victims[part]
        rows = block.own.cpu().numpy()
        if mine:
            images = task.images(block.own)
            check_images(images, block)
            with torch.no_grad():
                noisy = task.judge(random_noise(images, task.options, block.ids, seed=seed))
        for place, name in enumerate(missing, start=len(task.attacks) - len(missing)):
            found: list[tuple[np.ndarray, Columns]] = []
            if name in mine:
                report = partial(_report_attack, task, name, place, begin, len(victims))
                found.append((rows, _attack_block(task, name, images, noisy, block, seed=seed, report=report)))
            for of_process in processes.gather(found):
                for attacked, columns in of_process:
                    done[name].put(attacked, columns)
                    if resume is not None and processes.is_first:
                        resume.record(name, attacked, columns)


def _report_attack(task: _Task, name: str, place: int, done: int, queries: int, inside: AttackProgress) -> None:
    _report(task, name, place, len(task.attacks), done, queries, inside, task.phase)


def _report(
    task: _Task,
    attack: str,
    place: int,
    attacks: int,
    done: int,
    queries: int,
    inside: AttackProgress | None,
    phase: EvaluationPhase,
) -> None:
    if task.progress is not None:
        task.progress(EvaluationProgress(attack, place, attacks, done, queries, inside, phase))


def _attack_block(
    task: _Task,
    name: str,
    images: Tensor,
    noisy: Tensor,
    block: Victims,
    *,
    seed: int,
    report: Callable[[AttackProgress], None],
) -> dict[str, np.ndarray]:
    """Run one attack on a block of victims, in parts that fit the memory, and return its columns."""
    attack = task.attacks[name]
    size = max(1, _ELEMENTS // max(1, attack.width * len(task.gallery)))
    parts: list[dict[str, Tensor]] = []
    for begin in range(0, len(block), size):
        part = slice(begin, begin + size)
        victims = block[part]
        result = (task.method or run_attack)(
            attack,
            task.embed,
            images[part],
            victims,
            task.gallery,
            task.options,
            seed=seed,
            judge=task.judge,
            on_step=report,
            cancel=task.cancel,
        )
        if result.cancelled:
            raise _cancelled()
        with torch.no_grad():
            noise = attack.measure(noisy[part], victims, task.gallery, result.targets)
            losses = _losses(attack, victims, task.gallery, result, noisy[part])
        parts.append({"noise": noise, **losses, **result.columns()})
    return {k: torch.cat([part[k] for part in parts]).cpu().numpy() for k in parts[0]}


def _losses(
    attack: Attack, victims: Victims, gallery: Gallery, result: AttackResult, noisy: Tensor
) -> dict[str, Tensor]:
    """Return the attack's losses (n,) of the benign, the noisy and the attacked images."""
    objective = attack.objective(victims, gallery, result.targets)
    rows = torch.arange(len(victims), device=victims.own.device)
    points = {"benign": victims.embeddings, "noise": noisy, "final": result.embeddings}
    later = 1  # objectives treat the first gradient step, 0, specially
    return {f"{name} loss": objective(embeddings[:, None], rows, later) for name, embeddings in points.items()}


def _table(task: _Task, victims: Victims, done: Mapping[str, _Results]) -> PerImage:
    """Collect the results by query into columns."""
    columns: dict[str, np.ndarray] = {}
    for name, attack in task.attacks.items():
        gathered = done[name].columns
        for i, figure in enumerate(attack.figures):
            for kind, suffix in (("after", ""), ("before", " before"), ("noise", " noise")):
                columns[figure.key + suffix] = gathered[kind][:, i].astype(np.float64)
        columns |= {f"{name} {k}": gathered[k] for k in gathered if k not in {"after", "before", "noise", "passes"}}
    points, labels = task.gallery.embeddings, task.gallery.labels
    benign = recall_at_1(victims.embeddings, points, labels, victims.own, victims.labels)
    columns["R@1"] = 100.0 * benign.double().cpu().numpy()
    return PerImage(rows=victims.own.cpu().numpy(), labels=victims.labels.cpu().numpy(), columns=columns)
