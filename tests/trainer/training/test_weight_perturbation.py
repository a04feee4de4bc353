"""Adversarial weight perturbation against a plain version."""

import copy
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import Preprocessing
from hardrank.trainer.config import Schedule, TrainingOptions
from hardrank.trainer.data.dataset import DataOptions
from hardrank.trainer.data.folder import load
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.runtime.metrics_log import MetricsLog
from hardrank.trainer.training.loop import LoopOptions, run_stage, step_generator
from hardrank.trainer.training.stage import StepContext, TrainingState
from hardrank.trainer.training.stages import TrainingImages, TripletStage
from hardrank.trainer.training.weight_perturbation import worst_weights
from tests.trainer.tiny import write_images

SHARE = 0.05
LOOP = LoopOptions(learning_rate=1e-2, weight_decay=0.0, schedule=Schedule.CONSTANT)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> TripletStage:
    train = load(DataOptions(name="folder", root=write_images(tmp_path_factory.mktemp("images")))).train
    store = ImageStore(train, Preprocessing(resize=36, crop=32))
    options = TrainingOptions(updates=1, pairs=8, steps=2, weight_perturbation=SHARE)
    source = TrainingImages(store=store, labels=train.labels, crop=32, seed=0)
    return TripletStage(name="robust", source=source, options=options, defense=parse_defense("HM[S,0]&ICS"))


def _embedder() -> Embedder:
    torch.manual_seed(0)
    return build_embedder(Architecture(dimension=16, image_size=32))


def _train(stage: TripletStage, folder: Path) -> Embedder:
    return run_stage(
        stage,
        _embedder(),
        None,
        fabric=L.Fabric(accelerator="cpu", devices=1),
        options=LOOP,
        checkpoint=folder / "stage.ckpt",
        log=MetricsLog(folder / "logs", stage.name),
        report=lambda _: None,
    )


def _plain_update(stage: TripletStage) -> Embedder:
    """One update by hand: the gradient at the perturbed weights, applied to the weights."""
    embedder = _embedder().train()
    frozen = FoldedEmbedder(copy.deepcopy(embedder))
    images, labels = next(stage.batches(0, 0, 1))

    def gradients() -> dict[str, Tensor]:
        generator = step_generator(LOOP.seed, stage.name, 0, 0)
        context = StepContext(network=embedder, frozen=frozen, state=TrainingState(), generator=generator)
        result = stage.loss(images, labels, context)
        assert result is not None
        found = torch.autograd.grad(result.loss, list(embedder.parameters()))
        return dict(zip((name for name, _ in embedder.named_parameters()), found, strict=True))

    before = {name: weight.detach().clone() for name, weight in embedder.named_parameters()}
    rising = gradients()
    with torch.no_grad():
        for name, weight in embedder.named_parameters():
            if weight.dim() > 1:
                weight.add_(SHARE * weight.norm() * rising[name] / rising[name].norm())
    at_worst = gradients()
    rate = LOOP.learning_rate / 20  # of the first of twenty iterations over which it rises
    with torch.no_grad():
        for name, weight in embedder.named_parameters():
            gradient = at_worst[name]
            weight.copy_(before[name] - rate * gradient / (gradient.abs() + 1e-8))  # the first step of Adam
    return embedder


def test_an_update_agrees_with_the_plain_version(stage: TripletStage, tmp_path: Path) -> None:
    trained, plain, start = dict(_train(stage, tmp_path).named_parameters()), _plain_update(stage), _embedder()
    rate = LOOP.learning_rate / 20
    wrong, count = 0, 0
    for (name, expected), begin in zip(plain.named_parameters(), start.parameters(), strict=True):
        assert (trained[name] - begin).abs().max() <= 1.001 * rate + 1e-6
        wrong += int((trained[name] - expected).abs().gt(rate / 10).sum())
        count += expected.numel()
    assert wrong < 0.01 * count, "the first step of Adam is a sign, which rounding turns where the gradient is near 0"


def test_it_differs_from_an_update_without_it(stage: TripletStage, tmp_path: Path) -> None:
    without = replace(stage, options=replace(stage.options, weight_perturbation=0.0))
    one, other = _train(stage, tmp_path / "one"), _train(without, tmp_path / "other")
    differing = [not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    assert any(differing)


def test_weights_move_by_their_share_and_return_even_after_an_error() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network(torch.randn(5, 4)).square().sum().backward()
    before = [parameter.detach().clone() for parameter in network.parameters()]

    def stop_inside() -> None:
        with worst_weights(network, 0.1):
            for parameter, old in zip(network.parameters(), before, strict=True):
                moved = float((parameter - old).detach().norm())
                assert moved == pytest.approx(0.1 * float(old.norm()) if parameter.dim() > 1 else 0.0, rel=1e-5)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_inside()
    assert all(torch.equal(parameter, old) for parameter, old in zip(network.parameters(), before, strict=True))
