"""The HM step against a plain implementation, and its boundary cases."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.models.embedder import Architecture, Embedder, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.defenses import Conditions, Defense, DefenseResult, parse_defense
from hardrank.trainer.defenses.destinations import DestinationInput
from hardrank.trainer.defenses.hm import HardnessManipulation
from hardrank.trainer.metric.losses import hardness
from hardrank.trainer.metric.samplers import Sampler, draw_triplets
from tests.reference.hm import hm_step

ATTACK = PGDOptions(epsilon=8 / 255, alpha=1 / 255, steps=4)


@dataclass(frozen=True)
class DefenseCase:
    embedder: Embedder
    images: Tensor
    labels: Tensor

    def conditions(self, *, previous_loss: float = 0.05, attack: PGDOptions = ATTACK) -> Conditions:
        return Conditions(
            network=self.embedder,
            frozen=FoldedEmbedder(self.embedder),
            attack=attack,
            previous_loss=previous_loss,
            generator=torch.Generator().manual_seed(3),
        )

    def run(self, defense: Defense, conditions: Conditions) -> DefenseResult:
        outcome = defense(self.images, self.labels, conditions)
        assert outcome is not None
        return outcome


@pytest.fixture
def case() -> DefenseCase:
    torch.manual_seed(0)
    embedder = build_embedder(Architecture(dimension=16, image_size=32)).double().eval()
    for module in embedder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.2)
    labels = torch.tensor([0, 1, 2, 0, 1, 3]).repeat_interleave(2)
    base = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    images = F.interpolate(base[labels] * 0.7 + 0.3 * torch.rand(12, 3, 8, 8), size=32).clamp(0, 1)
    return DefenseCase(embedder, images, labels)


@pytest.mark.parametrize(
    "name",
    ["HM[S,g_LGA]", "HM[S,g_LGA]&ICS", "HM[R,M]&ICS(lambda=2)", "HM[D,g_B(H)]", "HM[S,g_LGA]&ICS(gamma=0.2)"],
)
def test_the_step_agrees_with_a_plain_implementation(case: DefenseCase, name: str) -> None:
    defense = parse_defense(name)
    assert isinstance(defense, HardnessManipulation)
    conditions = case.conditions()
    outcome = case.run(defense, conditions)
    case.embedder.zero_grad()
    outcome.loss.backward()
    fast = [parameter.grad.clone() for parameter in case.embedder.parameters() if parameter.grad is not None]

    generator = torch.Generator().manual_seed(3)
    benign = case.embedder(case.images).detach()
    triplets = draw_triplets(Sampler(name[3]), benign, case.labels, generator=generator)
    destination = defense.destination(
        DestinationInput(embeddings=benign, labels=case.labels, previous_loss=0.05, generator=generator)
    )
    parts = (triplets.anchor, triplets.positive, triplets.negative)
    plain = hm_step(
        case.embedder,
        case.images,
        parts,
        destination,
        epsilon=8 / 255,
        alpha=1 / 255,
        steps=4,
        margin=0.2,
        ics=defense.ics,
        ics_margin=defense.ics_margin,
    )
    assert outcome.loss.item() == pytest.approx(plain.loss.item(), abs=1e-5)
    case.embedder.zero_grad()
    plain.loss.backward()
    slow = [parameter.grad for parameter in case.embedder.parameters() if parameter.grad is not None]
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_hardness_rises_and_the_loss_of_ics_is_added(case: DefenseCase) -> None:
    without = case.run(parse_defense("HM[S,2]"), case.conditions())
    assert without.measures["hardness_reached"] > without.measures["hardness"] + 0.01
    with_ics = case.run(parse_defense("HM[S,2]&ICS(lambda=3)"), case.conditions())
    assert with_ics.triplet_loss.item() == pytest.approx(without.triplet_loss.item(), abs=1e-12)
    assert with_ics.loss.item() > without.loss.item()


def test_a_destination_already_reached_is_regular_training(case: DefenseCase) -> None:
    """Boundary case HM[H_S, H_S] of the method."""
    manipulated = case.run(parse_defense("HM[S,-2]"), case.conditions())
    regular = case.run(parse_defense("regular[S]"), case.conditions())
    assert manipulated.loss.item() == pytest.approx(regular.loss.item(), abs=1e-12)


def test_without_a_budget_all_defenses_are_regular_training(case: DefenseCase) -> None:
    attack = PGDOptions(epsilon=0.0, alpha=1 / 255, steps=3)
    losses = [
        case.run(parse_defense(name), case.conditions(attack=attack)).loss.item()
        for name in ("HM[R,2]", "ACT[R]", "regular[R]")
    ]
    assert losses[0] == pytest.approx(losses[2], abs=1e-12)
    assert losses[1] == pytest.approx(losses[2], abs=1e-12)


@pytest.mark.parametrize("name", ["HM[S,g_LGA]&ICS", "ACT[R]", "regular[S]"])
def test_a_batch_of_one_class_has_no_loss(case: DefenseCase, name: str) -> None:
    one_class = torch.zeros_like(case.labels)
    assert parse_defense(name)(case.images, one_class, case.conditions()) is None


def test_act_does_not_perturb_the_anchor(case: DefenseCase) -> None:
    act = case.run(parse_defense("ACT[S]"), case.conditions())
    regular = case.run(parse_defense("regular[S]"), case.conditions())
    assert act.loss.item() != pytest.approx(regular.loss.item(), abs=1e-6)
    embeddings = case.embedder(case.images)
    triplets = draw_triplets(Sampler.SOFTHARD, embeddings, case.labels, generator=torch.Generator().manual_seed(3))
    assert regular.measures["hardness"] == pytest.approx(hardness(*triplets.gather(embeddings)).mean().item(), abs=1e-9)
