"""The training loop: averaging, checkpoints, batches without triplets, several processes, and errors."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import Preprocessing
from hardrank.models.progress import StageProgress
from hardrank.trainer.config import Schedule, TrainingOptions, WarmupOptions
from hardrank.trainer.data.augmentation import AugmentationOptions
from hardrank.trainer.data.dataset import DataOptions
from hardrank.trainer.data.folder import load
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.defenses import Conditions, Defense, DefenseResult, parse_defense
from hardrank.trainer.runtime.metrics_log import MetricsLog
from hardrank.trainer.training.loop import LoopOptions, run_stage, step_generator
from hardrank.trainer.training.stage import (
    PeriodicCallback,
    StepContext,
    StepLoss,
    TrainingError,
    TrainingStage,
    TrainingState,
)
from hardrank.trainer.training.stages import CosineClassifier, TrainingImages, TripletStage, WarmupStage
from tests.trainer.tables import read_csv
from tests.trainer.tiny import write_images
from tests.trainer.together import run_together

SIZES = Preprocessing(resize=36, crop=32)
OPTIONS = LoopOptions(learning_rate=1e-3, weight_decay=0.0, schedule=Schedule.COSINE, checkpoint_every=3, log_every=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainingImages:
    root = write_images(tmp_path_factory.mktemp("images"))
    train = load(DataOptions(name="folder", root=root)).train
    return TrainingImages(store=ImageStore(train, SIZES), labels=train.labels, crop=32, seed=0)


@pytest.fixture(scope="module")
def fabric() -> L.Fabric:
    return L.Fabric(accelerator="cpu", devices=1)


def _embedder() -> Embedder:
    torch.manual_seed(0)
    return build_embedder(Architecture(dimension=16, image_size=32))


def _triplets(source: TrainingImages, epochs: float = 2, defense: str = "HM[S,g_LGA]&ICS") -> TripletStage:
    options = TrainingOptions(epochs=epochs, pairs=8, steps=2)
    return TripletStage(name="robust", source=source, options=options, defense=parse_defense(defense))


def _run(
    stage: TrainingStage,
    fabric: L.Fabric,
    folder: Path,
    options: LoopOptions = OPTIONS,
    extra: nn.Module | None = None,
    periodic: PeriodicCallback | None = None,
) -> tuple[Embedder, list[StageProgress]]:
    told: list[StageProgress] = []
    trained = run_stage(
        stage,
        _embedder(),
        extra,
        fabric=fabric,
        options=options,
        checkpoint=folder / "stage.ckpt",
        log=MetricsLog(folder / "logs", stage.name),
        report=told.append,
        periodic=periodic,
    )
    return trained, told


def _same(one: Embedder, other: Embedder) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class StoppedError(Exception):
    """The interruption of a test."""


class Interrupted(TripletStage):
    """A triplet stage that is interrupted before iteration 5."""

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(super().batches(start, rank, world_size), start=start):
            if step == 5:
                raise StoppedError
            yield batch


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_an_interrupted_stage_resumes_to_the_same_weights(
    source: TrainingImages, fabric: L.Fabric, tmp_path: Path, averaging: float
) -> None:
    options = replace(OPTIONS, averaging=averaging, freeze_batch_norm=True)
    whole, told = _run(_triplets(source), fabric, tmp_path / "whole", options)
    stage = _triplets(source)
    with pytest.raises(StoppedError):
        _run(Interrupted(**vars(stage)), fabric, tmp_path / "parts", options)
    rest, told_later = _run(stage, fabric, tmp_path / "parts", options)
    assert _same(whole, rest)
    assert [progress.done for progress in told] == [2, 4, 6, 8]
    assert [progress.done for progress in told_later] == [3, 4, 6, 8], "it goes on from the checkpoint of iteration 3"
    assert told[-1].measures == pytest.approx(told_later[-1].measures)


def test_a_finished_stage_is_read_from_its_checkpoint(source: TrainingImages, fabric: L.Fabric, tmp_path: Path) -> None:
    first, _ = _run(_triplets(source), fabric, tmp_path)
    again, told = _run(_triplets(source), fabric, tmp_path)
    assert _same(first, again)
    assert [(progress.done, progress.total) for progress in told] == [(8, 8)]


def test_the_gradual_adversary_uses_the_loss_of_the_previous_iteration(
    source: TrainingImages, fabric: L.Fabric, tmp_path: Path
) -> None:
    """H_D = −γ·min(1, l/γ), with l = 2 before the first and then the triplet loss of the log's line before."""
    _, told = _run(_triplets(source), fabric, tmp_path, replace(OPTIONS, log_every=1))
    losses = [2.0] + [progress.measures["triplet_loss"] for progress in told]
    for progress, before in zip(told, losses, strict=False):
        assert progress.measures["destination"] == pytest.approx(-min(0.2, before), abs=1e-6)


def test_frozen_batch_norm_statistics_do_not_change(source: TrainingImages, fabric: L.Fabric, tmp_path: Path) -> None:
    start = {name: value.clone() for name, value in _embedder().named_buffers() if "running" in name}
    frozen, _ = _run(_triplets(source, 1), fabric, tmp_path / "a", replace(OPTIONS, freeze_batch_norm=True))
    moving, _ = _run(_triplets(source, 1), fabric, tmp_path / "b", replace(OPTIONS, freeze_batch_norm=False))
    assert all(torch.equal(dict(frozen.named_buffers())[name], value) for name, value in start.items())
    assert not any(torch.equal(dict(moving.named_buffers())[name], value) for name, value in start.items())
    assert not torch.equal(dict(frozen.named_parameters())["backbone.bn1.weight"], torch.ones(32)), "γ still learns"


@pytest.mark.parametrize("epsilon", [0.0, 4 / 255])
def test_warm_up_learns_the_classes(source: TrainingImages, fabric: L.Fabric, tmp_path: Path, epsilon: float) -> None:
    torch.manual_seed(1)
    classifier = CosineClassifier.random(4, 16, 16.0)
    options = WarmupOptions(epochs=10, batch_size=16)
    stage = WarmupStage(source=source, options=options, classifier=classifier, epsilon=epsilon)
    _, told = _run(stage, fabric, tmp_path, extra=classifier)
    assert told[-1].measures["accuracy"] > 0.7 > told[0].measures["accuracy"]
    assert told[-1].measures["loss"] < told[0].measures["loss"]


def test_views_of_an_update_are_determined_by_its_number(source: TrainingImages) -> None:
    augmented = replace(source, crop=24, augmentation=AugmentationOptions(min_area=0.5, color=0.2))
    rows = np.arange(6)
    views = [augmented.images(rows, "warmup", step, 0) for step in (3, 3, 4)]
    assert views[0].shape == (6, 3, 24, 24)
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_the_second_half_of_a_warm_up_is_perturbed(source: TrainingImages, fabric: L.Fabric, tmp_path: Path) -> None:
    """The loss is that of the benign batch in the first half, and higher in the second."""
    classifier = CosineClassifier.random(4, 16, 16.0)
    options = WarmupOptions(epochs=10, batch_size=16)
    stage = WarmupStage(source=source, options=options, classifier=classifier, epsilon=8 / 255)
    embedder = _embedder().eval()
    images, rows = next(stage.batches(0, 0, 1))
    classes = torch.from_numpy(source.labels)[rows]
    benign = F.cross_entropy(classifier(embedder(images)), classes, label_smoothing=options.label_smoothing)
    losses = []
    for step in range(stage.iterations):
        generator = step_generator(0, stage.name, step, 0)
        state = TrainingState(step=step)
        context = StepContext(network=embedder, frozen=FoldedEmbedder(embedder), generator=generator, state=state)
        found = stage.loss(images, rows, context)
        assert found is not None
        losses.append(found.loss.item())
    middle = stage.iterations // 2
    assert losses[:middle] == [pytest.approx(benign.item())] * middle
    assert min(losses[middle:]) > benign.item()


def test_an_anchored_warm_up_classifies_and_keeps_the_embeddings(source: TrainingImages) -> None:
    """Its loss is computed here from its parts; the classifier starts from the class means of the targets."""
    torch.manual_seed(2)
    targets = F.normalize(torch.randn(len(source.labels), 16), dim=1)
    labels = torch.from_numpy(source.labels)
    classifier = CosineClassifier.of_means(targets, labels, 16.0)
    means = torch.stack([targets[labels == each].mean(dim=0) for each in range(4)])
    torch.testing.assert_close(classifier.directions.detach(), F.normalize(means, dim=1))
    options = WarmupOptions(epochs=1, batch_size=16, anchor=0.5, label_smoothing=0)
    stage = WarmupStage(source=source, options=options, classifier=classifier, targets=targets)
    embedder = _embedder().eval()
    images, rows = next(stage.batches(0, 0, 1))
    generator = step_generator(0, stage.name, 0, 0)
    context = StepContext(network=embedder, frozen=FoldedEmbedder(embedder), generator=generator, state=TrainingState())
    found = stage.loss(images, rows, context)
    embeddings = embedder(images)
    cosines = 16 * embeddings @ F.normalize(means, dim=1).T
    shift = (embeddings - targets[rows]).norm(dim=1)
    expected = F.nll_loss(cosines.log_softmax(dim=1), labels[rows]) + 0.5 * (shift**2).mean()
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.measures["shift"] == pytest.approx((shift**2).mean().item(), rel=1e-5)


def test_an_anchor_keeps_embeddings_near_their_targets(
    source: TrainingImages, fabric: L.Fabric, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        targets = torch.cat([_embedder().eval()(source.images(np.arange(len(source.labels)), "x", 0, 0))])
    shifts = {}
    for anchor in (0.0, 4.0):
        classifier = CosineClassifier.random(4, 16, 16.0)
        options = WarmupOptions(epochs=8, batch_size=16, anchor=anchor)
        stage = WarmupStage(source=source, options=options, classifier=classifier, epsilon=2 / 255, targets=targets)
        _, told = _run(stage, fabric, tmp_path / f"{anchor:g}", extra=classifier)
        shifts[anchor] = told[-1].measures["shift"]
    assert shifts[4.0] < 0.7 * shifts[0.0]


def test_the_budget_rises_during_the_first_part_of_a_stage(
    source: TrainingImages, fabric: L.Fabric, tmp_path: Path
) -> None:
    """ε and α are 0 in the first of eight iterations, half in the third, and whole from the fifth on."""
    budgets: list[tuple[float, float]] = []

    class Observer(Defense):
        @property
        def name(self) -> str:
            return "observer"

        def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult:
            budgets.append((255 * conditions.attack.epsilon, 255 * conditions.attack.alpha))
            assert conditions.random_start
            loss = conditions.network(images).square().mean()
            return DefenseResult(loss, loss.detach())

    options = TrainingOptions(updates=8, pairs=8, epsilon=8 / 255, alpha=2 / 255, epsilon_ramp=0.5, random_start=True)
    _run(TripletStage(name="robust", source=source, options=options, defense=Observer()), fabric, tmp_path)
    expected = [(0, 0), (2, 0.5), (4, 1), (6, 1.5), *[(8, 2)] * 4]
    assert budgets == [pytest.approx(pair) for pair in expected]


class Broken(TripletStage):
    """A triplet stage whose loss is NaN in the third iteration."""

    def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss | None:
        outcome = super().loss(images, labels, context)
        assert outcome is not None
        return replace(outcome, loss=outcome.loss * float("nan")) if context.state.step == 2 else outcome


def test_a_loss_that_is_not_finite_is_an_error(source: TrainingImages, fabric: L.Fabric, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss of robust is nan at iteration 2: lower the learning rate"):
        _run(Broken(**vars(_triplets(source))), fabric, tmp_path)


def test_a_damaged_checkpoint_is_an_error(source: TrainingImages, fabric: L.Fabric, tmp_path: Path) -> None:
    (tmp_path / "stage.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"stage.ckpt is damaged.*delete it"):
        _run(_triplets(source), fabric, tmp_path)


def test_the_random_generator_depends_on_every_argument() -> None:
    def draw(*arguments: object) -> float:
        return float(torch.rand(1, generator=step_generator(*arguments)))  # type: ignore[arg-type]

    one = draw(0, "robust", 3, 0)
    assert one == draw(0, "robust", 3, 0)
    assert (
        len({one, draw(1, "robust", 3, 0), draw(0, "benign", 3, 0), draw(0, "robust", 4, 0), draw(0, "robust", 3, 1)})
        == 5
    )


def test_processes_divide_a_batch(source: TrainingImages) -> None:
    stage = _triplets(source)
    shapes = [next(stage.batches(0, rank, 2))[0].shape for rank in (0, 1)]
    assert shapes == [(8, 3, 32, 32), (8, 3, 32, 32)]
    assert not torch.equal(next(stage.batches(0, 0, 2))[0], next(stage.batches(0, 1, 2))[0])


@dataclass(frozen=True, kw_only=True)
class Starved(TripletStage):
    """A triplet stage in which some batches have images of a single class only."""

    at: frozenset[tuple[int, int]]
    """(iteration, rank) of those batches."""
    same_batches: bool = False
    """Whether all ranks get the batches of a single process."""

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        own = (0, 1) if self.same_batches else (rank, world_size)
        for step, (images, labels) in enumerate(super().batches(start, *own), start=start):
            yield images, torch.zeros_like(labels) if (step, rank) in self.at else labels


def test_a_batch_without_triplets_changes_neither_weights_nor_means(
    source: TrainingImages, fabric: L.Fabric, tmp_path: Path
) -> None:
    """Neither by momentum nor by weight decay, nor the moving average, nor the loss that steers the next iteration."""
    options = replace(OPTIONS, weight_decay=0.1, averaging=0.5, log_every=2)
    stage = Starved(**vars(_triplets(source)), at=frozenset({(3, 0), (4, 0), (5, 0)}))
    weights: list[dict[str, Tensor]] = []

    def look(step: int, embedder: Embedder) -> None:
        weights.append({name: value.clone() for name, value in embedder.state_dict().items()})

    _, told = _run(stage, fabric, tmp_path, options, periodic=PeriodicCallback(every=1, call=look))
    changed = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in itertools.pairwise(weights)]
    assert changed == [True, True, True, False, False, False, True, True]
    assert [progress.done for progress in told] == [2, 4, 6, 8]
    assert told[2].measures == {}, "nothing was measured in iterations 5 and 6"
    _run(stage, fabric, tmp_path / "single", replace(options, log_every=1))
    lines = read_csv(tmp_path / "single" / "logs" / "robust.csv")
    assert [line["step"] for line in lines] == ["1", "2", "3", "7", "8"]
    assert float(lines[2]["loss"]) == pytest.approx(told[1].measures["loss"], rel=1e-4), "of iteration 3 alone"
    assert float(lines[3]["destination"]) == pytest.approx(-min(0.2, float(lines[2]["triplet_loss"])), abs=1e-5)


STARVED = frozenset({(1, 1), (2, 0), (2, 1), (4, 1)})


def _train_starved(fabric: L.Fabric, folder: Path) -> None:
    """Train with two processes; the second has no triplets in iterations 2 and 5, both have none in iteration 3."""
    train = load(DataOptions(name="folder", root=folder / "images")).train
    source = TrainingImages(store=ImageStore(train, SIZES), labels=train.labels, crop=32, seed=0)
    rank = fabric.global_rank
    for name, at in (("mixed", STARVED), ("second", frozenset((step, 1) for step in range(6)))):
        # The first process alone learns in `second`: it gets the batches of a single process.
        stage = Starved(**vars(_triplets(source, 1.5)), at=at, same_batches=name == "second")
        trained, _ = _run(stage, fabric, folder / name)
        torch.save(trained.state_dict(), folder / f"{name}-{rank}.pt")


def test_processes_without_triplets_follow_the_step_of_the_others(
    source: TrainingImages, fabric: L.Fabric, tmp_path: Path
) -> None:
    write_images(tmp_path / "images")
    run_together(_train_starved, tmp_path)
    mixed = [torch.load(tmp_path / f"mixed-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(mixed[0][name], mixed[1][name]) for name in mixed[0])
    second = torch.load(tmp_path / "second-0.pt")
    alone, _ = _run(_triplets(source, 1.5), fabric, tmp_path / "alone")
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)
