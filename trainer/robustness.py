"""From attacks to a scorecard: ERS and its ten parts with intervals, and whether it can be trusted."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from models.embedder import Embed
from models.errors import HardrankError
from trainer.attacks.attack import Attack, Figure, Gallery, Victims, victims_in
from trainer.attacks.journal import Columns, Journal
from trainer.attacks.options import AttackError, option
from trainer.attacks.registry import standard_attacks
from trainer.attacks.run import AttackOptions, Method, Progress, check_images, never, run_attack
from trainer.attacks.starts import random_noise
from trainer.retrieval import mean_cosine, recall_at_1

ERS_KEYS: Final = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM", "GTT")
"""The ten results, in the order of the published tables."""

RECALL_KEYS: Final = ("ES:R", "LTM", "GTM")
"""Those that are Recall@1 under attack."""

ImageProvider = Callable[[Tensor], Tensor]
"""Gallery rows (n,) → their images (n,3,H,W), floats in [0,1]."""

_ELEMENTS: Final = 1 << 24
"""How many distances an attack may hold at once: 64 MiB in float32."""


class CancelledError(HardrankError):
    """The evaluation was asked to stop; its journal, if it has one, keeps what was finished."""


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions(AttackOptions):
    """How the scorecard is measured; the defaults are the published protocol."""

    bootstrap: int = option(1000, minimum=2, unit="resamples", help="of the images, for the 95 % intervals")
    seed_check: int = option(
        32,
        minimum=0,
        unit="queries",
        help="attacked again with the next seed, to see whether results vary with it",
    )


class CheckKind(StrEnum):
    """Why an evaluation should not be trusted, or its score not taken for robustness."""

    ZERO_GRADIENT = "zero gradient"
    NOISE_BEATS_ATTACK = "noise beats the attack"
    STILL_FALLING = "loss still falling"
    SEED_VARIANCE = "varies with the seed"
    RANDOM_NETWORK = "random network"
    COLLAPSE = "collapse"


@dataclass(frozen=True)
class Check:
    """A check that failed."""

    kind: CheckKind
    where: str
    """The attack or figure, or `model`."""
    message: str


@dataclass(frozen=True, kw_only=True)
class FigureResult:
    """One of the ten results."""

    value: float
    """The mean over the queries, in the published unit: %, a cosine, or a distance."""
    low: float
    high: float
    """Ends of the 95 % bootstrap interval."""
    before: float
    """The same of the benign queries."""
    noise: float
    """The same under random noise at the edge of the budget."""
    score: float
    """Its part of ERS, 0 … 100."""
    success: float
    """How far the attack got from the benign ranking to its goal, in %; NaN when it began there."""


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """The results of every query, a row each."""

    rows: np.ndarray
    """(n,): gallery rows."""
    labels: np.ndarray
    """(n,)."""
    columns: Mapping[str, np.ndarray]
    """`KEY`, `KEY before`, `KEY noise` of each figure (n,); `ATTACK targets` (n,T), …; `R@1`."""

    def write_csv(self, path: Path) -> None:
        """Write the table, a line for each query."""
        flat = {name: values for name, values in self.columns.items() if values.ndim == 1}
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "label", *flat])
            for i, (row, label) in enumerate(zip(self.rows.tolist(), self.labels.tolist(), strict=True)):
                writer.writerow([row, label, *(values[i].item() for values in flat.values())])


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a table of results."""

    figures: Mapping[str, FigureResult]
    ers: float
    """Empirical Robustness Score, 0 … 100, higher is more robust; NaN unless all ten results are there."""
    ers_low: float
    ers_high: float
    """Ends of its 95 % bootstrap interval."""
    ars: float
    """100 − the mean success of the attacks relative to the benign ranking."""
    worst_recall: float
    """Recall@1 in % when each query meets the worst of the attacks on it, the benign image among them."""
    worst_score: float
    """Mean over queries of the smallest of their scores, 0 … 100."""
    recall_at_1: float
    """Recall@1 of the benign queries, in %."""
    n: int
    """How many queries."""


@dataclass(frozen=True, kw_only=True)
class Scorecard(Summary):
    """What the attacks did, in figures that a reviewer can check."""

    mean_cosine: float
    """Of all pairs of the gallery: near 1 the model has collapsed, and ERS means nothing."""
    checks: tuple[Check, ...]
    gallery: int
    """How many items it has."""
    seeds: tuple[int, ...]
    """The seed of the draws, and that of the check with another one."""
    options: Mapping[str, Any]
    attacks: Mapping[str, Mapping[str, Any]]
    """Each attack's options."""
    passes: int
    """Images that went forward and back through the network."""
    scales: Mapping[str, Figure]
    """What the figures mean."""
    per_image: PerImage

    @property
    def trustworthy(self) -> bool:
        """Whether no check failed."""
        return not self.checks

    def to_dict(self) -> dict[str, Any]:
        """Give all but the table, ready for JSON; what is not a number is None."""
        whole = asdict(replace(self, per_image=PerImage(rows=np.empty(0), labels=np.empty(0), columns={})))
        del whole["per_image"]
        found: dict[str, Any] = _without_nan(whole)
        return found


@dataclass(frozen=True)
class EvaluationProgress:
    """Where an evaluation stands."""

    attack: str
    attacks_done: int
    """Attacks finished on these queries."""
    attacks: int
    queries_done: int
    """Queries on which all attacks are finished."""
    queries: int
    inside: Progress
    """The running attack."""


def _without_nan(content: Any) -> Any:
    """Replace NaN, of which JSON has none, by None."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def ers(values: Mapping[str, float], figures: Mapping[str, Figure] | None = None) -> float:
    """Give the ERS of ten results in published units, by `ERS_KEYS` (evaluation: ERS)."""
    known = figures or _figures(standard_attacks())
    parts = [float(known[key].score(torch.tensor(values[key], dtype=torch.float64))) for key in ERS_KEYS]
    return sum(parts) / len(parts)


def bytes_provider(images: Tensor) -> ImageProvider:
    """Provide images held as bytes, uint8 (N,3,H,W), as float32 in [0,1]."""
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
    cancel: Callable[[], bool] = never,
    resume: Journal | None = None,
) -> Scorecard:
    """Attack the gallery's images `queries` (n,) with each of `attacks`, and score what is left of it.

    `gallery` (N,D) are the benign embeddings of all images, on the unit sphere, with `labels` (N,); `images`
    gives pixels by gallery row, `batch` at a time. `embed` gives gradients; `judge`, where given, embeds the
    final images in its stead, so that a bf16 `embed` is judged in float32. `method`, where given, searches in the
    place of gradient descent; `embed` then needs no gradient. What is drawn depends on `seed`,
    attack, gallery and query alone, so neither `batch` nor an interruption changes it. With `resume` the
    finished blocks are kept, and a later call goes on from there. Raises `AttackError` for input that cannot
    be attacked, `CancelledError` when `cancel` says so.
    """
    options = options or RobustnessOptions()
    attacks = standard_attacks() if attacks is None else attacks
    store = Gallery(gallery, labels.to(gallery.device))
    victims = victims_in(store, queries)
    if len(victims) == 0 or batch < 1 or not attacks:
        raise AttackError(f"there is nothing to attack: {len(victims)} queries, {len(attacks)} attacks, batch {batch}")
    if len(set(victims.own.tolist())) < len(victims):
        raise AttackError("a query is named twice; name each gallery row once")
    task = _Task(embed, judge or embed, images, store, attacks, options, batch, progress, cancel, method)
    done = {name: _Results(victims) for name in attacks}
    if resume is not None:
        resume.open(_settings(task, seed), _probe(gallery))
        for name in attacks:
            for rows, columns in resume.load(name):
                done[name].put(rows, columns)
    steady = _check_network(task, victims[: min(batch, 32)])
    passes = _attack_all(task, victims, done, seed=seed, resume=resume)
    table = _table(task, victims, done)
    checks = [*steady, *_trust(task, table), *_collapse(store)]
    if options.seed_check:
        some = victims[: options.seed_check]
        again = {name: _Results(some) for name in attacks}
        passes += _attack_all(replace(task, progress=None), some, again, seed=seed + 1, resume=None)
        checks += compare_seeds([_head(table, len(some)), _table(task, some, again)], _figures(attacks))
    figures = _figures(attacks)
    return Scorecard(
        **vars(summarise(table, figures, seed=seed, resamples=options.bootstrap)),
        mean_cosine=mean_cosine(gallery),
        checks=tuple(checks),
        gallery=len(store),
        seeds=(seed, seed + 1) if options.seed_check else (seed,),
        options={**asdict(options), **_method(task)},
        attacks={name: _described(attack) for name, attack in attacks.items()},
        passes=passes,
        scales=figures,
        per_image=table,
    )


def sample_queries(count: int, wanted: int | None, *, seed: int) -> Tensor:
    """Rows of a gallery of `count` images that are attacked, sorted (n,): all, or a seeded sample of different ones."""
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


class _Results:
    """The columns of one attack, filled block by block; a row for each victim."""

    def __init__(self, victims: Victims) -> None:
        self._places = {row: i for i, row in enumerate(victims.own.tolist())}
        self.finished = np.zeros(len(victims), dtype=bool)
        self.columns: dict[str, np.ndarray] = {}

    def put(self, rows: np.ndarray, columns: Columns) -> None:
        """Fill in the gallery rows `rows` (n,), as far as they are among the victims."""
        known = np.array([row in self._places for row in rows.tolist()], dtype=bool)
        places = [self._places[row] for row in rows[known].tolist()]
        for name, values in columns.items():
            whole = self.columns.setdefault(name, np.zeros((len(self.finished), *values.shape[1:]), values.dtype))
            whole[places] = values[known]
        self.finished[places] = True


def _figures(attacks: Mapping[str, Attack]) -> dict[str, Figure]:
    return {figure.key: figure for attack in attacks.values() for figure in attack.figures}


def _settings(task: _Task, seed: int) -> dict[str, Any]:
    ignored = {"bootstrap", "seed_check"}
    return {
        "seed": seed,
        "gallery": list(task.gallery.embeddings.shape),
        "options": {k: v for k, v in asdict(task.options).items() if k not in ignored},
        "attacks": {name: repr(attack) for name, attack in task.attacks.items()},
        **_method(task),
    }


def _method(task: _Task) -> dict[str, Any]:
    """What searches, where it is not gradient descent."""
    return {} if task.method is None else {"method": task.method.describe()}


def _probe(gallery: Tensor) -> np.ndarray:
    rows = torch.linspace(0, len(gallery) - 1, min(64, len(gallery)), device=gallery.device).long()
    return gallery[rows].double().cpu().numpy()


@torch.no_grad()
def _check_network(task: _Task, victims: Victims) -> list[Check]:
    """Embed a batch twice: it must lie where the gallery has it, and twice at the same place."""
    images = task.images(victims.own)
    check_images(images, victims)
    first, second = task.judge(images), task.judge(images)
    away = (first - victims.embeddings).norm(dim=1)
    if not bool((away < 0.2).all()):
        row = int(victims.own[away.nan_to_num(9).argmax()])
        raise AttackError(
            f"the image of gallery row {row} is embedded {away.max().item():.3g} away from that row: "
            "gallery, images and network do not belong together (another preprocessing, or training mode?)"
        )
    if bool((first != second).any()):
        return [
            Check(
                CheckKind.RANDOM_NETWORK,
                "model",
                "the same images are embedded differently each time: PGD needs the expectation over that",
            )
        ]
    return []


def _attack_all(
    task: _Task, victims: Victims, done: Mapping[str, _Results], *, seed: int, resume: Journal | None
) -> int:
    """Fill `done` with the results of every attack on every victim; gives the number of passes."""
    passes = 0
    for begin in range(0, len(victims), task.batch):
        block = victims[begin : begin + task.batch]
        part = slice(begin, begin + task.batch)
        rows = block.own.cpu().numpy()
        missing = [name for name in task.attacks if not done[name].finished[part].all()]
        if not missing:
            continue
        images = task.images(block.own)
        check_images(images, block)
        with torch.no_grad():
            noisy = task.judge(random_noise(images, task.options, block.ids, seed=seed))
        for place, name in enumerate(missing, start=len(task.attacks) - len(missing)):
            report = partial(_report, task, name, place, begin, len(victims))
            columns, used = _attack_block(task, name, images, noisy, block, seed=seed, report=report)
            passes += used
            done[name].put(rows, columns)
            if resume is not None:
                resume.record(name, rows, columns)
    return passes


def _report(task: _Task, name: str, place: int, done: int, queries: int, inside: Progress) -> None:
    if task.progress is not None:
        task.progress(EvaluationProgress(name, place, len(task.attacks), done, queries, inside))


def _attack_block(
    task: _Task,
    name: str,
    images: Tensor,
    noisy: Tensor,
    block: Victims,
    *,
    seed: int,
    report: Callable[[Progress], None],
) -> tuple[dict[str, np.ndarray], int]:
    """Run one attack on a block of victims, in parts that fit the memory; gives its columns and passes."""
    attack = task.attacks[name]
    size = max(1, _ELEMENTS // max(1, attack.width * len(task.gallery)))
    parts: list[dict[str, Tensor]] = []
    passes = 0
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
            raise CancelledError("the evaluation was stopped; finished blocks are in its journal, if it has one")
        passes += result.passes
        with torch.no_grad():
            noise = attack.measure(noisy[part], victims, task.gallery, result.targets)
        parts.append({"noise": noise, **result.columns()})
    return {k: torch.cat([part[k] for part in parts]).cpu().numpy() for k in parts[0]}, passes


def _table(task: _Task, victims: Victims, done: Mapping[str, _Results]) -> PerImage:
    """Gather results by query into columns."""
    columns: dict[str, np.ndarray] = {}
    for name, attack in task.attacks.items():
        gathered = done[name].columns
        for i, figure in enumerate(attack.figures):
            for kind, suffix in (("after", ""), ("before", " before"), ("noise", " noise")):
                columns[figure.key + suffix] = gathered[kind][:, i].astype(np.float64)
        columns |= {f"{name} {k}": gathered[k] for k in gathered if k not in {"after", "before", "noise"}}
    points, labels = task.gallery.embeddings, task.gallery.labels
    benign = recall_at_1(victims.embeddings, points, labels, victims.own, victims.labels)
    columns["R@1"] = 100.0 * benign.double().cpu().numpy()
    return PerImage(rows=victims.own.cpu().numpy(), labels=victims.labels.cpu().numpy(), columns=columns)


def _head(table: PerImage, count: int) -> PerImage:
    return PerImage(
        rows=table.rows[:count],
        labels=table.labels[:count],
        columns={name: values[:count] for name, values in table.columns.items()},
    )


def _scores(table: PerImage, figures: Mapping[str, Figure], suffix: str = "") -> np.ndarray:
    """Score each query's figures (n,F), 0 … 100."""
    columns = [figure.score(torch.from_numpy(table.columns[key + suffix])) for key, figure in figures.items()]
    return torch.stack(columns, dim=1).numpy()


def _trust(task: _Task, table: PerImage) -> list[Check]:
    checks = []
    for name, attack in task.attacks.items():
        blind = int(table.columns[f"{name} blind"].sum())
        if blind:
            checks.append(
                Check(
                    CheckKind.ZERO_GRADIENT,
                    name,
                    f"{blind} of {len(table.rows)} images have no gradient at the start although the loss "
                    "pulls: the network hides its gradient, and gradient attacks say nothing",
                )
            )
        first, late, end = (table.columns[f"{name} {k} loss"].mean() for k in ("first", "late", "end"))
        if first - end > 0 and late - end > 0.05 * (first - end):
            checks.append(
                Check(
                    CheckKind.STILL_FALLING,
                    name,
                    f"{100 * (late - end) / (first - end):.0f} % of the loss's fall came in the last quarter "
                    f"of the {task.options.steps} steps: more steps would find worse images",
                )
            )
        for figure in attack.figures:
            one = {figure.key: figure}
            gap = _scores(table, one)[:, 0] - _scores(table, one, " noise")[:, 0]
            if gap.mean() > max(0.1, 2 * gap.std() / len(gap) ** 0.5):
                checks.append(
                    Check(
                        CheckKind.NOISE_BEATS_ATTACK,
                        figure.key,
                        f"random noise within the budget scores {gap.mean():.1f} points lower",
                    )
                )
    return checks


def _collapse(gallery: Gallery, limit: float = 0.5) -> list[Check]:
    cosine = mean_cosine(gallery.embeddings)
    if not cosine > limit:
        return []
    return [
        Check(
            CheckKind.COLLAPSE,
            "model",
            f"pairs have a mean cosine of {cosine:.2f}: a collapsed model scores well, and retrieves nothing",
        )
    ]


def compare_seeds(tables: Sequence[PerImage], figures: Mapping[str, Figure]) -> list[Check]:
    """Say which figures of the same queries, attacked with different seeds, differ beyond chance.

    Chance: 4 standard errors of the mean of paired differences to the first table.
    """
    checks = []
    for key, figure in figures.items():
        scores = [_scores(table, {key: figure})[:, 0] for table in tables]
        for other in scores[1:]:
            gap = other - scores[0]
            error = gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 1 else np.inf
            if abs(gap.mean()) > max(1.0, 4 * error):
                checks.append(
                    Check(
                        CheckKind.SEED_VARIANCE,
                        key,
                        f"its score differs by {gap.mean():+.1f} ± {error:.1f} points between seeds",
                    )
                )
    return checks


def bootstrap_interval(values: np.ndarray, *, seed: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the 95 % percentile interval of the mean of each column of `values` (n,F), resampling rows."""
    rng = np.random.default_rng([seed, 0xB007])
    n = len(values)
    means = np.stack([values[rng.integers(n, size=n)].mean(axis=0) for _ in range(resamples)])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def summarise(table: PerImage, figures: Mapping[str, Figure], *, seed: int, resamples: int) -> Summary:
    """Average a table of results: the figures, ERS, their intervals, and the worst cases per image."""
    scores = _scores(table, figures)
    complete = set(ERS_KEYS) <= set(figures)
    whole = scores[:, [list(figures).index(key) for key in ERS_KEYS]].mean(axis=1) if complete else None
    nan = float("nan")
    values = np.stack([table.columns[key] for key in figures], axis=1)
    stacked = np.column_stack([values, np.full(len(values), nan) if whole is None else whole])
    low, high = bootstrap_interval(stacked, seed=seed, resamples=resamples)
    results = {
        key: FigureResult(
            value=float(values[:, i].mean()),
            low=float(low[i]),
            high=float(high[i]),
            before=float(table.columns[key + " before"].mean()),
            noise=float(table.columns[key + " noise"].mean()),
            score=float(scores[:, i].mean()),
            success=_success(figure, table),
        )
        for i, (key, figure) in enumerate(figures.items())
    }
    recalls = [table.columns[key] for key in ("R@1", *RECALL_KEYS) if key in table.columns]
    return Summary(
        figures=results,
        ers=nan if whole is None else float(whole.mean()),
        ers_low=float(low[-1]),
        ers_high=float(high[-1]),
        ars=100 - float(np.nanmean([result.success for result in results.values()])),
        worst_recall=float(np.min(recalls, axis=0).mean()),
        worst_score=float(np.clip(scores, 0, 100).min(axis=1).mean()),
        recall_at_1=float(table.columns["R@1"].mean()),
        n=len(table.rows),
    )


def worst_case(scorecards: Sequence[Scorecard]) -> Scorecard:
    """Give the scorecard in which each image meets the worst of several evaluations, figure by figure.

    They must have attacked the same queries with the same targets, as with other engines, starts or budgets.
    Raises `AttackError` otherwise.
    """
    first = scorecards[0]
    columns = dict(first.per_image.columns)
    for other in scorecards[1:]:
        theirs = other.per_image.columns
        same = other.scales == first.scales and np.array_equal(other.per_image.rows, first.per_image.rows)
        aims = [name for name in columns if name.endswith(" targets")]
        if not same or any(not np.array_equal(columns[name], theirs[name]) for name in aims):
            raise AttackError(
                "a worst case is taken over evaluations of the same queries, targets and figures; these differ: "
                "use one seed and one set of attacks"
            )
        for key, figure in first.scales.items():
            ours, worse = (figure.score(torch.from_numpy(c[key])).numpy() for c in (columns, theirs))
            columns[key] = np.where(worse < ours, theirs[key], columns[key])
    table = replace(first.per_image, columns=columns)
    summary = summarise(table, first.scales, seed=first.seeds[0], resamples=int(first.options["bootstrap"]))
    found = [check for card in scorecards for check in card.checks]
    return replace(
        first,
        **vars(summary),
        per_image=table,
        checks=tuple(dict.fromkeys(found)),
        passes=sum(card.passes for card in scorecards),
        options={**first.options, "worst of": [dict(card.options) for card in scorecards]},
    )


def _described(attack: Attack) -> dict[str, Any]:
    return asdict(attack)  # type: ignore[call-overload, no-any-return]


def _success(figure: Figure, table: PerImage) -> float:
    before, after = (table.columns[figure.key + suffix].mean() for suffix in (" before", ""))
    room = figure.attacked - before
    return float(100 * (after - before) / room) if abs(room) > 1e-9 else float("nan")
