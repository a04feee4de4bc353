"""The strong score: the worst of many attacks for each image and result, on a sample of the attacked images.

The scorecard follows the published protocol: one attack for each result, from one start, with the published loss. The
strong search attacks the same images with other engines, more steps, random starts, losses that aim at the reported
figure (see `AttackKind.aimed`), and MARGIN with more targets. Each perturbed image is judged by every result, whichever
attack made it. An image leaves a search once nothing is left to gain.
"""

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Attack, Figure, Gallery, Victims
from hardrank.trainer.attacks.runner import AttackProgress, run_attack
from hardrank.trainer.evaluation.blocks import (
    MOST_DISTANCES,
    BlockResults,
    EvaluationPhase,
    EvaluationTask,
    cancelled,
    rows_of,
)
from hardrank.trainer.evaluation.journal import Columns, Journal
from hardrank.trainer.evaluation.scorecard import (
    ERS_KEYS,
    RECALL_KEYS,
    PerImage,
    StrongFigure,
    StrongScore,
    StrongSetting,
    bootstrap_interval,
    figures_of,
)
from hardrank.trainer.evaluation.strong_plan import Search, plan_searches

STRONG_IMAGES: Final = 32
"""The number of images that an audit and a training run attack with the strong search."""
STRONG_RESTARTS: Final = 1
"""Its runs of each attack; two more for MARGIN, from random starts."""
EOT_PASSES: Final = 8
"""Passes whose gradients the strong search averages for a network that embeds the same image differently each time."""

PROTOCOL: Final = "the scorecard's own attack"
"""Name of the first setting: a result as the scorecard has it."""
OTHERS: Final = "the benign image, noise, or another attack of the scorecard"
"""Name of the second: what the scorecard measured besides, all of it within the budget."""


def search_block(
    embed: Embed,
    judge: Embed,
    images: Tensor,
    victims: Victims,
    gallery: Gallery,
    attacks: Mapping[str, Attack],
    table: PerImage,
    searches: Sequence[Search],
    *,
    on_step: Callable[[int, AttackProgress], None],
    cancel: Callable[[], bool],
) -> dict[str, np.ndarray]:
    """Run all searches on a block of images.

    Args:
        embed: the network that gives the gradients.
        judge: the network that embeds the final images.
        images: (n,3,H,W) in [0,1].
        victims: the same images as the gallery sees them.
        gallery: the benign gallery.
        attacks: the scorecard's attacks, by name.
        table: the scorecard's results for these images.
        searches: from `plan_searches`.
        on_step: called after each step with the number of the search.
        cancel: called before each step; returns True to stop.

    Returns:
        `values` (n,F) and `found by` (n,F), by figure: the worst value, and the number of the setting that found it
        (0 and 1: the scorecard; then the searches); `passes` (n,S) and `attacked` (n,S), by search; `seconds` (n,).
        The values are NaN if `cancel` returned True.
    """
    began = time.perf_counter()
    figures = figures_of(attacks)
    keys, device = list(figures), victims.own.device
    targets = {name: torch.from_numpy(table.columns[f"{name} targets"]).to(device) for name in attacks}
    values = torch.from_numpy(np.stack([table.columns[key] for key in keys], axis=1))
    found_by = torch.zeros(values.shape, dtype=torch.long)
    _keep_worse(values, found_by, 1, torch.arange(len(values)), _other_results(table, figures), figures)
    passes = torch.zeros((len(values), len(searches)), dtype=torch.long)
    attacked = torch.zeros(passes.shape, dtype=torch.bool)
    for number, search in enumerate(searches):
        aimed = [keys.index(key) for key in search.keys]
        scores = _scores(values, figures)[:, aimed]
        rows = (scores > 0).any(1).nonzero().squeeze(1)
        if not len(rows):
            continue
        some = rows.to(device)
        part = victims[some]
        drawn = targets.get(search.attack.name)
        if drawn is None or drawn.shape[1] != search.attack.target_count or _draws_differently(search, attacks):
            drawn = search.attack.draw(victims, gallery, seed=search.seed)
        result = run_attack(
            search.attack,
            embed,
            images[some],
            part,
            gallery,
            search.options,
            seed=search.seed,
            targets=drawn[some],
            judge=judge,
            on_step=lambda progress, number=number: on_step(number, progress),  # type: ignore[misc]
            cancel=cancel,
        )
        if result.cancelled:
            values.fill_(torch.nan)
            break
        with torch.no_grad():
            judged = [
                attack.measure(result.embeddings, part, gallery, targets[name][some])
                for name, attack in attacks.items()
            ]
        _keep_worse(values, found_by, number + 2, rows, torch.cat(judged, dim=1).double().cpu(), figures)
        passes[rows, number] = result.image_passes.cpu()
        attacked[rows, number] = True
    seconds = np.full(len(values), (time.perf_counter() - began) / max(1, len(values)))
    return {
        "values": values.numpy(),
        "found by": found_by.numpy(),
        "passes": passes.numpy(),
        "attacked": attacked.numpy(),
        "seconds": seconds,
    }


def _draws_differently(search: Search, attacks: Mapping[str, Attack]) -> bool:
    """Whether the search's attack, with its own options, may choose other targets than the scorecard's attack."""
    return any(search.attack.name == attack.name and search.attack != attack for attack in attacks.values())


def _other_results(table: PerImage, figures: Mapping[str, Figure]) -> Tensor:
    """Return the worst (n,F) of what the scorecard measured besides: benign, under noise, and by another attack."""
    recalls = [table.columns[key] for key, figure in figures.items() if figure.recall] + [table.columns["R@1"]]
    columns = []
    for key, figure in figures.items():
        others = [table.columns[key + " before"], table.columns[key + " noise"]]
        tried = np.stack(others + (recalls if figure.recall else []))
        columns.append(tried.min(axis=0) if figure.higher_is_robust else tried.max(axis=0))
    return torch.from_numpy(np.stack(columns, axis=1))


def _scores(values: Tensor, figures: Mapping[str, Figure]) -> Tensor:
    return torch.stack([figure.score(values[:, i]) for i, figure in enumerate(figures.values())], dim=1)


def _keep_worse(
    values: Tensor, found_by: Tensor, setting: int, rows: Tensor, tried: Tensor, figures: Mapping[str, Figure]
) -> None:
    """Put `tried` (R,F), of the images `rows`, into `values` where its score is lower."""
    better = _scores(tried, figures) < _scores(values[rows], figures) - 1e-6
    values[rows] = torch.where(better, tried, values[rows])
    found_by[rows] = torch.where(better, torch.full_like(found_by[rows], setting), found_by[rows])


def summarize_strong(
    table: PerImage,
    columns: Mapping[str, np.ndarray],
    figures: Mapping[str, Figure],
    searches: Sequence[Search],
    *,
    options: Mapping[str, Any],
    seed: int,
    resamples: int,
) -> StrongScore:
    """Average what `search_block` found.

    Args:
        table: the scorecard's results for the same images.
        columns: what `search_block` returned, for all blocks.
        figures: the figures, in the order of the columns.
        searches: the searches.
        options: what determines the search, for the record.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    keys = list(figures)
    values, found_by = columns["values"], columns["found by"]
    scores = _scores(torch.from_numpy(values), figures).numpy()
    published = {key: table.columns[key] for key in keys}
    nan = float("nan")
    ers = protocol_ers = low = high = nan
    if set(ERS_KEYS) <= set(keys):
        places = [keys.index(key) for key in ERS_KEYS]
        whole = scores[:, places].mean(axis=1)
        before = _scores(torch.from_numpy(np.stack(list(published.values()), axis=1)), figures).numpy()[:, places]
        ends = bootstrap_interval(whole[:, None], seed=seed, resamples=resamples)
        ers, protocol_ers = float(whole.mean()), float(before.mean())
        low, high = (float(end[0]) for end in ends)
    recalls = [values[:, i] for i, key in enumerate(keys) if figures[key].recall]
    complete = set(RECALL_KEYS) <= set(keys)
    names = [PROTOCOL, OTHERS, *(search.name for search in searches)]
    nothing = np.zeros(len(values), dtype=np.int64)
    spent = [nothing, nothing, *columns["passes"].T]
    attacked = [nothing, nothing, *columns["attacked"].T]
    return StrongScore(
        ers=ers,
        ers_low=low,
        ers_high=high,
        protocol_ers=protocol_ers,
        worst_case_recall=float(np.min(recalls, axis=0).mean()) if complete else nan,
        figures={
            key: StrongFigure(
                value=float(values[:, i].mean()),
                score=float(scores[:, i].mean()),
                protocol=float(published[key].mean()),
            )
            for i, key in enumerate(keys)
        },
        n=len(values),
        gradients_per_image=float(columns["passes"].sum() / len(values)),
        seconds=float(columns["seconds"].sum()),
        settings=tuple(
            StrongSetting(
                name=name,
                images=int(attacked[i].sum()),
                gradients=int(spent[i].sum()),
                found={key: int(count) for j, key in enumerate(keys) if (count := (found_by[:, j] == i).sum())},
            )
            for i, name in enumerate(names)
        ),
        options=options,
    )


def run_strong(
    task: EvaluationTask,
    victims: Victims,
    table: PerImage,
    *,
    images: int,
    restarts: int,
    seed: int,
    resamples: int,
    resume: Journal | None,
) -> tuple[StrongScore, dict[str, np.ndarray]]:
    """Run the strong search on an even sample of the victims.

    Args:
        task: the evaluation.
        victims: the attacked images.
        table: the scorecard's results for them.
        images: size of the sample.
        restarts: runs of each attack; see `plan_searches`.
        seed: of the random starts and the bootstrap.
        resamples: of the bootstrap.
        resume: keeps finished blocks.

    Returns:
        The score, and the worst values (n,) by column, NaN for images outside the sample.
    """
    processes = task.processes
    count = min(images, len(victims))
    places = np.arange(count) * len(victims) // count
    sample = victims[torch.from_numpy(places).to(victims.own.device)]
    results = rows_of(table, places)
    searches = plan_searches(task.attacks, task.options, restarts=restarts, seed=seed)
    known = BlockResults(sample)
    name = f"strong {zlib.crc32(repr([(search.name, search.seed) for search in searches]).encode()):08x}"
    if resume is not None:
        for rows, columns in resume.load(name):
            known.put(rows, columns)
        processes.wait()
    widest = max(attack.width for attack in (*task.attacks.values(), *(search.attack for search in searches)))
    fits = max(1, MOST_DISTANCES // max(1, widest * len(task.gallery)))
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
                rows_of(results, own),
                searches,
                on_step=partial(_report, task, searches, begin, len(sample)),
                cancel=task.cancel,
            )
            if np.isnan(columns["values"]).any():
                raise cancelled()
            found.append((block.own.cpu().numpy(), columns))
        for of_process in processes.gather(found):
            for rows, columns in of_process:
                known.put(rows, columns)
                if resume is not None and processes.is_first:
                    resume.record(name, rows, columns)
    figures = figures_of(task.attacks)
    score = summarize_strong(
        results,
        known.columns,
        figures,
        searches,
        options={"images": images, "restarts": restarts},
        seed=seed,
        resamples=resamples,
    )
    worst = {f"{key} strong": np.full(len(victims), np.nan) for key in figures}
    for i, key in enumerate(figures):
        worst[f"{key} strong"][places] = known.columns["values"][:, i]
    return score, worst


def _report(
    task: EvaluationTask, searches: Sequence[Search], done: int, queries: int, place: int, inside: AttackProgress
) -> None:
    name, phase = searches[place].name, EvaluationPhase.STRONG
    task.report(name, done, queries, inside, phase=phase, place=place, attacks=len(searches))
