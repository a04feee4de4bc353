"""Perturbed images that equal benign ones are not embedded twice."""

import pytest
import torch

from hardrank.trainer.attacks.pgd import PGDOptions
from tests.trainer.defenses.case import ALPHA, EPSILON, STEPS, DefenseCase


@pytest.mark.parametrize(("name", "epsilon"), [("HM[S,g_LGA]&ICS", EPSILON), ("HM[R,-2]", EPSILON), ("MARGIN", 0.0)])
def test_an_image_that_did_not_move_is_embedded_once(case: DefenseCase, name: str, epsilon: float) -> None:
    attack = PGDOptions(epsilon=epsilon, alpha=ALPHA, steps=STEPS)
    outcomes, gradients, sizes = [], [], []
    for independent in (False, True):
        outcome = case.run(name, case.conditions(attack=attack, independent=independent))
        case.embedder.zero_grad()
        outcome.loss.backward()
        outcomes.append(outcome.loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in case.embedder.parameters() if p.grad is not None]))
        sizes.append(case.seen[-1])
    assert len(sizes[1].unique(dim=0)) == len(sizes[1]) == len(sizes[0].unique(dim=0)) < len(sizes[0])
    assert outcomes[0] == pytest.approx(outcomes[1], abs=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)
