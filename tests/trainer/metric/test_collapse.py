"""A collapse is measured rightly, judged steadily, and caught in the loop while it happens."""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.models.embedder import Architecture, build_embedder
from hardrank.models.progress import StageProgress
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.config import Schedule
from hardrank.trainer.defenses import Conditions, parse_defense
from hardrank.trainer.metric.collapse import (
    CollapseError,
    CollapseReading,
    CollapseState,
    Symptom,
    collapse_signs,
    observe,
    read_collapse,
)
from hardrank.trainer.training.loop import LoopOptions, run_stage
from hardrank.trainer.training.stage import StepContext, StepLoss, TrainingStage


def naive_reading(embeddings: Tensor, labels: Tensor) -> CollapseReading:
    rows = range(len(labels))
    cosines = [float(embeddings[i] @ embeddings[j]) for i in rows for j in rows if labels[i] != labels[j]]
    hits, chances = [], []
    for i in rows:
        others = [j for j in rows if j != i]
        nearest = max(others, key=lambda j: float(embeddings[i] @ embeddings[j]))
        hits.append(float(labels[nearest] == labels[i]))
        chances.append(sum(float(labels[j] == labels[i]) for j in others) / len(others))
    return CollapseReading(
        cosine=sum(cosines) / len(cosines) if cosines else math.nan,
        recall=sum(hits) / len(hits),
        chance=sum(chances) / len(chances),
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_reading_agrees_with_loops_over_rows(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (7,), generator=generator).repeat_interleave(2)
    embeddings = F.normalize(torch.randn(14, 6, dtype=torch.float64, generator=generator), dim=1)
    found, expected = read_collapse(embeddings, labels), naive_reading(embeddings, labels)
    assert found.cosine == pytest.approx(expected.cosine, abs=1e-12, nan_ok=True)
    assert found.recall == pytest.approx(expected.recall, abs=1e-6)
    assert found.chance == pytest.approx(expected.chance, abs=1e-6)


def test_one_class_has_no_pairs_to_compare_and_raises_no_alarm() -> None:
    reading = read_collapse(torch.ones(4, 1), torch.zeros(4, dtype=torch.int64))
    assert math.isnan(reading.cosine)
    assert reading.recall == reading.chance == 1
    assert collapse_signs(reading, queries=4) == frozenset()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_rows_tell_nothing(count: int) -> None:
    reading = read_collapse(torch.ones(count, 1), torch.zeros(count, dtype=torch.int64))
    assert math.isnan(reading.cosine)
    assert math.isnan(reading.recall)
    assert collapse_signs(reading, queries=count) == frozenset()


def test_embeddings_that_are_all_equal_score_chance_whatever_the_order_of_rows() -> None:
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 2, 2])
    equal = F.normalize(torch.ones(8, 3), dim=1)
    for order in (torch.arange(8), torch.arange(7, -1, -1)):
        reading = read_collapse(equal, labels[order])
        assert reading.cosine == pytest.approx(1)
        assert reading.recall == pytest.approx(reading.chance)
        assert collapse_signs(reading, queries=8) == {Symptom.ALIKE, Symptom.BLIND}


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (CollapseReading(cosine=0.3, recall=0.8, chance=0.1), set()),
        (CollapseReading(cosine=0.96, recall=0.8, chance=0.1), {Symptom.ALIKE}),
        (CollapseReading(cosine=0.95, recall=0.8, chance=0.1), set()),
        (CollapseReading(cosine=0.3, recall=0.15, chance=0.1), {Symptom.BLIND}),
        (CollapseReading(cosine=0.3, recall=0.17, chance=0.1), set()),  # 0.1 + 2·√(0.1·0.9/100) = 0.16
        (CollapseReading(cosine=0.99, recall=0.02, chance=0.1), {Symptom.ALIKE, Symptom.BLIND}),
        (CollapseReading(cosine=math.nan, recall=math.nan, chance=math.nan), set()),
    ],
)
def test_symptoms(reading: CollapseReading, expected: set[Symptom]) -> None:
    assert collapse_signs(reading, queries=100) == expected


def test_more_queries_leave_less_to_noise() -> None:
    reading = CollapseReading(cosine=0.3, recall=0.15, chance=0.1)
    assert collapse_signs(reading, queries=10_000) == frozenset()


def verdicts(cosines: list[float]) -> list[bool]:
    watch, found = CollapseState(), []
    for cosine in cosines:
        watch = observe(watch, CollapseReading(cosine=cosine, recall=0.8, chance=0.1), queries=100)
        found.append(watch.collapsed)
    return found


def test_only_consecutive_readings_turn_the_verdict() -> None:
    assert verdicts([0.99, 0.99, 0.5, 0.99, 0.99]) == [False] * 5
    assert verdicts([0.5, 0.99, 0.99, 0.99, 0.99]) == [False, False, False, True, True]


def test_the_verdict_stays_until_the_model_has_clearly_recovered() -> None:
    collapsed = [0.99] * 3
    assert verdicts([*collapsed, 0.93, 0.93, 0.93, 0.93])[2:] == [True] * 5
    assert verdicts([*collapsed, 0.5, 0.5, 0.93, 0.5, 0.5])[2:] == [True] * 6
    assert verdicts([*collapsed, 0.5, 0.5, 0.5, 0.99])[2:] == [True, True, True, False, False]


@dataclass
class Lines:
    """A log in memory."""

    rows: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def resume(self, step: int) -> None:
        self.rows = {number: row for number, row in self.rows.items() if number <= step}

    def write(self, step: int, measures: Mapping[str, float]) -> None:
        self.rows[step] = dict(measures)


def silent(progress: StageProgress) -> None:
    pass


def train(
    stage: TrainingStage,
    folder: Path,
    lines: Lines,
    *,
    log_every: int = 5,
    checkpoint_every: int = 100,
    stop: bool = False,
) -> None:
    torch.manual_seed(0)
    run_stage(
        stage,
        build_embedder(Architecture(backbone="small-resnet", dimension=8, image_size=32)),
        None,
        fabric=L.Fabric(accelerator="cpu", devices=1),
        options=LoopOptions(
            learning_rate=0.01,
            weight_decay=0.0,
            schedule=Schedule.CONSTANT,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            stop_on_collapse=stop,
        ),
        checkpoint=folder / "stage.ckpt",
        log=lines,
        report=silent,
    )


@dataclass(frozen=True, kw_only=True)
class Colors:
    """Four classes of blurred colors, and a defense with half the range of pixels as its budget."""

    defense: str
    iterations: int
    name: str = "colors"
    weight_perturbation: float = 0.0

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        base = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        for step in itertools.count(start):
            generator = torch.Generator().manual_seed(step)
            labels = torch.randperm(4, generator=generator).repeat(2).repeat_interleave(2)
            yield F.interpolate(0.6 * base[labels] + 0.4 * torch.rand(16, 3, 4, 4, generator=generator), 32), labels

    def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss:
        conditions = Conditions(
            network=context.network,
            frozen=context.frozen,
            attack=PGDOptions(epsilon=0.5, alpha=0.2, steps=4),
            previous_loss=context.state.previous_loss,
            generator=context.generator,
        )
        outcome = parse_defense(self.defense)(images, labels, conditions)
        assert outcome is not None
        return StepLoss(outcome.loss, float(outcome.triplet_loss), outcome.measures)


def test_a_collapsing_training_is_warned_of_marked_and_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Min-max training with a budget that can make any image of any other."""
    lines = Lines()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(CollapseError, match=r"colors stopped at iteration .* weaker adversary"),
    ):
        train(Colors(defense="minmax[R]", iterations=60), tmp_path, lines, stop=True)
    *before, last = lines.rows
    assert 15 <= last < 60
    assert lines.rows[last]["cosine"] > 0.95
    assert lines.rows[last]["collapsed"] == 1
    assert not any("collapsed" in lines.rows[step] for step in before)
    warnings = [record.getMessage() for record in caplog.records if "has collapsed" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"colors has collapsed by iteration {last}: cosine of different classes ")


def test_a_collapsed_training_goes_on_unless_told_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines()
    with caplog.at_level(logging.WARNING):
        train(Scripted(cosines=(0.99,) * 6, until=99), tmp_path, lines, log_every=1)
    assert [step for step, row in lines.rows.items() if "collapsed" in row] == [3, 4, 5, 6]
    assert sum("has collapsed" in record.getMessage() for record in caplog.records) == 1


def test_regular_training_of_the_same_images_goes_to_its_end(tmp_path: Path) -> None:
    lines = Lines()
    train(Colors(defense="regular[R]", iterations=20), tmp_path, lines, stop=True)
    assert lines.rows[20]["recall"] > 0.8
    assert not any("collapsed" in row for row in lines.rows.values())


class KilledError(Exception):
    """Stands for a kill."""


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A stage that learns nothing and says what it is told to."""

    cosines: tuple[float, ...]
    until: int
    """The update at which it is interrupted."""
    name: str = "scripted"
    weight_perturbation: float = 0.0

    @property
    def iterations(self) -> int:
        return len(self.cosines)

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.repeat((torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)))

    def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss:
        step = context.state.step
        if step == self.until:
            raise KilledError
        reading = CollapseReading(cosine=self.cosines[step], recall=0.9, chance=0.1)
        return StepLoss(0.0 * context.network(images).sum(), 2.0, reading.as_measures())


def test_the_verdict_and_what_led_to_it_survive_an_interruption(tmp_path: Path) -> None:
    cosines = (0.5, 0.99, 0.99, 0.99, 0.99, 0.5, 0.5, 0.5)
    whole, parts = Lines(), Lines()
    train(Scripted(cosines=cosines, until=99), tmp_path / "whole", whole, log_every=1)
    for until in (3, 6, 99):
        stage = Scripted(cosines=cosines, until=until)
        if until == 99:
            train(stage, tmp_path / "parts", parts, log_every=1, checkpoint_every=1)
        else:
            with pytest.raises(KilledError):
                train(stage, tmp_path / "parts", parts, log_every=1, checkpoint_every=1)
    assert parts.rows == whole.rows
    assert [step for step, row in whole.rows.items() if "collapsed" in row] == [4, 5, 6, 7]


def test_a_stage_without_these_measures_is_not_watched(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain(Scripted):
        def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss:
            return StepLoss(0.0 * context.network(images).sum(), 2.0, {"accuracy": 0.5})

    lines = Lines()
    train(Plain(cosines=(0.99,) * 4, until=99), tmp_path, lines, log_every=1, stop=True)
    assert list(lines.rows) == [1, 2, 3, 4]
