"""The loop: learning rate, averaging, checkpoints, and what stops it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.progress import StageProgress
from hardrank.trainer.config import Schedule, TrainingOptions, WarmupOptions
from hardrank.trainer.data.dataset import DataOptions
from hardrank.trainer.data.folder import load
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.runtime.metrics_log import MetricsLog
from hardrank.trainer.training.loop import (
    LoopOptions,
    Stage,
    State,
    StepContext,
    StepLoss,
    TrainingError,
    run_stage,
    step_generator,
)
from hardrank.trainer.training.stages import CosineClassifier, Source, TripletStage, Warmup
from tests.trainer.tiny import write_images

OPTIONS = LoopOptions(learning_rate=1e-3, weight_decay=0.0, schedule=Schedule.COSINE, checkpoint_every=3, log_every=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = write_images(tmp_path_factory.mktemp("images"))
    train = load(DataOptions(name="folder", root=root)).train
    return Source(store=ImageStore(train, 36), labels=train.labels, crop=32, seed=0)


@pytest.fixture(scope="module")
def fabric() -> L.Fabric:
    return L.Fabric(accelerator="cpu", devices=1)


def _embedder() -> Embedder:
    torch.manual_seed(0)
    return build_embedder(Architecture(dimension=16, image_size=32))


def _triplets(source: Source, epochs: float = 2, defense: str = "HM[S,g_LGA]&ICS") -> TripletStage:
    options = TrainingOptions(epochs=epochs, pairs=8, steps=2)
    return TripletStage(name="robust", source=source, options=options, defense=parse_defense(defense))


def _run(
    stage: Stage,
    fabric: L.Fabric,
    folder: Path,
    options: LoopOptions = OPTIONS,
    extra: nn.Module | None = None,
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
    )
    return trained, told


def _same(one: Embedder, other: Embedder) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class StoppedError(Exception):
    """The test's own interruption."""


class Interrupted(TripletStage):
    """The same stage, cut off before an iteration."""

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(super().batches(start, rank, world_size), start=start):
            if step == 5:
                raise StoppedError
            yield batch


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_an_interrupted_stage_goes_on_to_the_same_weights(
    source: Source, fabric: L.Fabric, tmp_path: Path, averaging: float
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


def test_a_finished_stage_is_only_read(source: Source, fabric: L.Fabric, tmp_path: Path) -> None:
    first, _ = _run(_triplets(source), fabric, tmp_path)
    again, told = _run(_triplets(source), fabric, tmp_path)
    assert _same(first, again)
    assert [(progress.done, progress.total) for progress in told] == [(8, 8)]


def test_the_gradual_adversary_sees_the_loss_of_the_iteration_before(
    source: Source, fabric: L.Fabric, tmp_path: Path
) -> None:
    """H_D = −γ·min(1, l/γ), with l = 2 before the first and then the triplet loss of the log's line before."""
    _, told = _run(_triplets(source), fabric, tmp_path, replace(OPTIONS, log_every=1))
    losses = [2.0] + [progress.measures["triplet_loss"] for progress in told]
    for progress, before in zip(told, losses, strict=False):
        assert progress.measures["destination"] == pytest.approx(-min(0.2, before), abs=1e-6)


def test_batch_norm_statistics_stay_where_frozen(source: Source, fabric: L.Fabric, tmp_path: Path) -> None:
    start = {name: value.clone() for name, value in _embedder().named_buffers() if "running" in name}
    frozen, _ = _run(_triplets(source, 1), fabric, tmp_path / "a", replace(OPTIONS, freeze_batch_norm=True))
    moving, _ = _run(_triplets(source, 1), fabric, tmp_path / "b", replace(OPTIONS, freeze_batch_norm=False))
    assert all(torch.equal(dict(frozen.named_buffers())[name], value) for name, value in start.items())
    assert not any(torch.equal(dict(moving.named_buffers())[name], value) for name, value in start.items())
    assert not torch.equal(dict(frozen.named_parameters())["backbone.bn1.weight"], torch.ones(32)), "γ still learns"


@pytest.mark.parametrize("epsilon", [0.0, 4 / 255])
def test_warm_up_learns_its_classes(source: Source, fabric: L.Fabric, tmp_path: Path, epsilon: float) -> None:
    torch.manual_seed(1)
    classifier = CosineClassifier(4, 16, 16.0)
    options = WarmupOptions(epochs=10, batch_size=16)
    stage = Warmup(source=source, options=options, classifier=classifier, epsilon=epsilon)
    _, told = _run(stage, fabric, tmp_path, extra=classifier)
    assert told[-1].measures["accuracy"] > 0.7 > told[0].measures["accuracy"]
    assert told[-1].measures["loss"] < told[0].measures["loss"]


def test_the_second_half_of_a_warm_up_is_perturbed(source: Source, fabric: L.Fabric, tmp_path: Path) -> None:
    """Its loss is that of the batch as it is until the middle, and higher from there on."""
    classifier = CosineClassifier(4, 16, 16.0)
    options = WarmupOptions(epochs=10, batch_size=16)
    stage = Warmup(source=source, options=options, classifier=classifier, epsilon=8 / 255)
    embedder = _embedder().eval()
    images, labels = next(stage.batches(0, 0, 1))
    benign = F.cross_entropy(classifier(embedder(images)), labels, label_smoothing=options.label_smoothing)
    losses = []
    for step in range(stage.iterations):
        generator = step_generator(0, stage.name, step, 0)
        state = State(step=step)
        context = StepContext(network=embedder, frozen=FoldedEmbedder(embedder), generator=generator, state=state)
        losses.append(stage.loss(images, labels, context).loss.item())
    middle = stage.iterations // 2
    assert losses[:middle] == [pytest.approx(benign.item())] * middle
    assert min(losses[middle:]) > benign.item()


class Broken(TripletStage):
    """Its loss is no number from the third iteration on."""

    def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss:
        outcome = super().loss(images, labels, context)
        return replace(outcome, loss=outcome.loss * float("nan")) if context.state.step == 2 else outcome


def test_a_loss_that_is_no_number_stops_with_a_reason(source: Source, fabric: L.Fabric, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss of robust is nan at iteration 2: lower the learning rate"):
        _run(Broken(**vars(_triplets(source))), fabric, tmp_path)


def test_a_damaged_checkpoint_is_named(source: Source, fabric: L.Fabric, tmp_path: Path) -> None:
    (tmp_path / "stage.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"stage.ckpt is damaged.*delete it"):
        _run(_triplets(source), fabric, tmp_path)


def test_draws_depend_on_every_argument() -> None:
    def draw(*arguments: object) -> float:
        return float(torch.rand(1, generator=step_generator(*arguments)))  # type: ignore[arg-type]

    one = draw(0, "robust", 3, 0)
    assert one == draw(0, "robust", 3, 0)
    assert (
        len({one, draw(1, "robust", 3, 0), draw(0, "benign", 3, 0), draw(0, "robust", 4, 0), draw(0, "robust", 3, 1)})
        == 5
    )


def test_processes_share_a_batch_out(source: Source) -> None:
    stage = _triplets(source)
    shapes = [next(stage.batches(0, rank, 2))[0].shape for rank in (0, 1)]
    assert shapes == [(8, 3, 32, 32), (8, 3, 32, 32)]
    assert not torch.equal(next(stage.batches(0, 0, 2))[0], next(stage.batches(0, 1, 2))[0])
