"""The HM step against a plain implementation, and its boundary cases."""

import pytest
import torch
from torch import nn

from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.defenses.destinations import DestinationInput
from hardrank.trainer.defenses.hm import HardnessManipulation
from hardrank.trainer.metric.losses import hardness
from hardrank.trainer.metric.samplers import Sampler, draw_triplets
from tests.reference.hm import hm_step
from tests.trainer.defenses.case import ALPHA, EPSILON, SEED, STEPS, DefenseCase, make_case


@pytest.fixture
def case() -> DefenseCase:
    """A network whose batch norms have running means, and a batch."""
    case = make_case()
    for module in case.embedder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.2)
    return case


@pytest.mark.parametrize(
    "name",
    ["HM[S,g_LGA]", "HM[S,g_LGA]&ICS", "HM[R,M]&ICS(lambda=2)", "HM[D,g_B(H)]", "HM[S,g_LGA]&ICS(gamma=0.2)"],
)
def test_the_step_agrees_with_a_plain_implementation(case: DefenseCase, name: str) -> None:
    defense = parse_defense(name)
    assert isinstance(defense, HardnessManipulation)
    outcome = case.run(name)
    case.embedder.zero_grad()
    outcome.loss.backward()
    fast = [parameter.grad.clone() for parameter in case.embedder.parameters() if parameter.grad is not None]

    generator = torch.Generator().manual_seed(SEED)
    benign = case.benign()
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
        epsilon=EPSILON,
        alpha=ALPHA,
        steps=STEPS,
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
    without = case.run("HM[S,2]")
    assert without.measures["hardness_reached"] > without.measures["hardness"] + 0.01
    with_ics = case.run("HM[S,2]&ICS(lambda=3)")
    assert with_ics.triplet_loss.item() == pytest.approx(without.triplet_loss.item(), abs=1e-12)
    assert with_ics.loss.item() > without.loss.item()


def test_a_destination_already_reached_is_regular_training(case: DefenseCase) -> None:
    """Boundary case HM[H_S, H_S] of the method."""
    assert case.run("HM[S,-2]").loss.item() == pytest.approx(case.run("regular[S]").loss.item(), abs=1e-12)


def test_act_does_not_perturb_the_anchor(case: DefenseCase) -> None:
    act, regular = case.run("ACT[S]"), case.run("regular[S]")
    assert act.loss.item() != pytest.approx(regular.loss.item(), abs=1e-6)
    benign = case.triplets(Sampler.SOFTHARD).gather(case.benign())
    assert regular.measures["hardness"] == pytest.approx(hardness(*benign).mean().item(), abs=1e-9)
